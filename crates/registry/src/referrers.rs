//! Referrers: the manifests whose subject is a digest. Source: OCI distribution 1.1, "Listing Referrers".

use axum::{
    extract::Request,
    http::{HeaderName, HeaderValue, header},
    response::Response,
};
use dtr_access::{Caller, Operation};
use dtr_catalog::records::ReferrerRecord;
use dtr_store::At;
use dtr_types::{Digest, MediaType, RepositoryName};
use serde_json::{Value, json};

use crate::{
    OciError,
    auth::Asked,
    blobs::header_value,
    listing::{json_response, with_next},
    uploads::Query,
};

static FILTERS_HEADER: HeaderName = HeaderName::from_static("oci-filters-applied");
/// The answer stays below the size that a manifest may have.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024 - 64 * 1024;

/// `GET .../referrers/<digest>`: always an index; one without entries for what nobody knows. Never 404, which clients
/// take for a registry without this endpoint.
pub(crate) async fn get(
    asked: &Asked<'_>,
    name: RepositoryName,
    subject: Digest,
    request: Request,
) -> Result<Response, OciError> {
    let query = Query::of(&request);
    let filter = query.get("artifactType").filter(|text| !text.is_empty());
    let repository = match asked.repository(&name, Operation::Pull).await {
        Ok(repository) => repository,
        Err(error)
            if error.code() == "NAME_UNKNOWN" && !matches!(asked.caller, Caller::Anonymous) =>
        {
            return Ok(answer(&[], filter));
        }
        Err(error) => return Err(error),
    };
    let prefix = dtr_catalog::keys::referrers(&repository.id, &subject);
    let mut after = query.get("last").map(str::to_owned);
    let mut entries: Vec<Value> = Vec::new();
    let mut bytes = 0;
    loop {
        let catalog = &asked.registry.catalog;
        let page =
            catalog.list::<ReferrerRecord>(&prefix, after.as_deref(), 200, At::Latest).await?;
        for found in page.items {
            let record = found.value;
            let digest = record.digest;
            let passes =
                filter.is_none_or(|wanted| record.artifact_type.as_deref() == Some(wanted));
            if passes {
                let entry = entry(record);
                bytes += entry.to_string().len() + 1;
                if bytes > ANSWER_BYTES_MAX && !entries.is_empty() {
                    let next = next(&name, &subject, filter, after.as_deref());
                    return Ok(with_next(answer(&entries, filter), &next));
                }
                entries.push(entry);
            }
            after = Some(digest.to_string());
        }
        if !page.more {
            return Ok(answer(&entries, filter));
        }
    }
}

fn next(
    name: &RepositoryName,
    subject: &Digest,
    filter: Option<&str>,
    last: Option<&str>,
) -> String {
    let encode = |text: &str| {
        percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
    };
    let mut target =
        format!("/v2/{name}/referrers/{subject}?last={}", encode(last.unwrap_or_default()));
    if let Some(filter) = filter {
        target.push_str(&format!("&artifactType={}", encode(filter)));
    }
    target
}

fn entry(record: ReferrerRecord) -> Value {
    let mut entry = json!({
        "mediaType": record.media_type,
        "size": record.size,
        "digest": record.digest,
    });
    if let Some(artifact_type) = record.artifact_type {
        entry["artifactType"] = artifact_type.into();
    }
    if !record.annotations.is_empty() {
        entry["annotations"] = json!(record.annotations);
    }
    entry
}

fn answer(entries: &[Value], filter: Option<&str>) -> Response {
    let index = json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OciIndex,
        "manifests": entries,
    });
    let mut response = json_response(index.to_string());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header_value(MediaType::OciIndex));
    if filter.is_some() {
        headers.insert(FILTERS_HEADER.clone(), HeaderValue::from_static("artifactType"));
    }
    response
}
