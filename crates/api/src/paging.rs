//! Pages: `pageStart` (the first record wanted), `pageSize`, `count`; what follows is told in a header.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::ApiError;

/// Most items of a page.
pub(crate) const PAGE_SIZE_MAX: usize = 1000;
/// Items of a page when nothing is asked for, as in the original.
const PAGE_SIZE_DEFAULT: usize = 10;

/// Where the next page begins; absent on the last one.
pub(crate) const NEXT_PAGE: HeaderName = HeaderName::from_static("x-next-page-start");

/// Which page.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(crate) struct PageParams {
    /// The first record wanted: what `X-Next-Page-Start` of the page before said.
    pub page_start: Option<String>,
    /// How many records, at most 1000.
    #[param(minimum = 1, maximum = 1000)]
    pub page_size: Option<usize>,
}

impl PageParams {
    /// How many records.
    pub fn size(&self) -> Result<usize, ApiError> {
        match self.page_size {
            None => Ok(PAGE_SIZE_DEFAULT),
            Some(size) if (1..=PAGE_SIZE_MAX).contains(&size) => Ok(size),
            Some(size) => Err(ApiError::invalid(
                "INVALID_PARAMETERS",
                format!("pageSize is {size}; it can be 1 to {PAGE_SIZE_MAX}"),
            )),
        }
    }

    /// The first record wanted.
    pub fn start(&self) -> Option<&str> {
        self.page_start.as_deref().filter(|start| !start.is_empty())
    }
}

/// Cuts what was read, one record more than the page if there is one, to the page, and tells where the next begins.
pub(crate) fn page_of<T>(
    mut items: Vec<T>,
    size: usize,
    start_of: impl Fn(&T) -> String,
) -> (HeaderMap, Vec<T>) {
    let mut headers = HeaderMap::new();
    if items.len() > size {
        let next = start_of(&items[size]);
        items.truncate(size);
        if let Ok(value) = HeaderValue::from_str(&next) {
            headers.insert(NEXT_PAGE, value);
        }
    }
    (headers, items)
}
