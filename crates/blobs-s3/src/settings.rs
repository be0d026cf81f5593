//! Which bucket, and how it is reached: the fields of DTR's storage form, which are those of the CNCF distribution
//! registry's `s3` driver, under the same names.

use std::fmt;

use dtr_types::Secret;
use object_store::path::Path;
use serde::{Deserialize, Serialize};

/// An S3-compatible bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct S3Settings {
    /// The region, such as `eu-central-1`. Needed for Amazon; others mostly take any (`us-east-1` when it is empty).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub region: String,
    /// Where the service is, when it is not Amazon: `https://host:port`, or `host:port` with [`Self::secure`] deciding.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub regionendpoint: String,
    /// The bucket. It must exist.
    pub bucket: String,
    /// The access key's id; empty, with [`Self::secretkey`], to use the role of the machine.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub accesskey: String,
    /// The access key's secret.
    #[serde(skip_serializing_if = "Secret::is_empty")]
    pub secretkey: Secret,
    /// A folder in the bucket below which everything is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rootdirectory: String,
    /// Whether HTTPS is used when [`Self::regionendpoint`] does not say.
    pub secure: bool,
    /// Whether the certificate of the service is believed unseen. For trials only.
    pub skipverify: bool,
    /// CAs besides the system's that the service's certificate may come from, in PEM form.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rootcas: String,
    /// Signatures of version 4. Version 2 is not spoken; here so that a form of DTR can be read.
    pub v4auth: bool,
    /// Whether the bucket is part of the path instead of the host name; by default where there is a
    /// [`Self::regionendpoint`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forcepathstyle: Option<bool>,
    /// The storage class of blobs (`STANDARD_IA`, ...); the bucket's default when empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub storageclass: String,
    /// Whether the service is asked to encrypt what it stores, with keys of its own (`AES256`), or [`Self::keyid`].
    pub encrypt: bool,
    /// The key of the service's key management to encrypt with.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub keyid: String,
}

impl Default for S3Settings {
    fn default() -> Self {
        Self {
            region: String::new(),
            regionendpoint: String::new(),
            bucket: String::new(),
            accesskey: String::new(),
            secretkey: Secret::default(),
            rootdirectory: String::new(),
            secure: true,
            skipverify: false,
            rootcas: String::new(),
            v4auth: true,
            forcepathstyle: None,
            storageclass: String::new(),
            encrypt: false,
            keyid: String::new(),
        }
    }
}

/// The place, for messages: without any credential.
impl fmt::Display for S3Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bucket {:?}", self.bucket)?;
        match self.endpoint() {
            Some(endpoint) => write!(f, " at {endpoint}")?,
            None => write!(f, " in region {:?}", self.region)?,
        }
        match self.rootdirectory.trim_matches('/') {
            "" => Ok(()),
            root => write!(f, ", below {root:?}"),
        }
    }
}

impl S3Settings {
    /// What is wrong with the settings as such, before anything is asked of the service.
    ///
    /// # Errors
    /// Which field, and what to write there.
    pub fn validate(&self) -> Result<(), String> {
        let name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        if self.bucket.is_empty() || !self.bucket.chars().all(name) {
            return Err(format!(
                "bucket is {:?}: write the bucket's name, without a scheme or a path",
                self.bucket
            ));
        }
        if self.region.is_empty() && self.regionendpoint.is_empty() {
            return Err(
                "give a region, or the regionendpoint of a service that is not Amazon's".to_owned()
            );
        }
        if !self.region.chars().all(name) {
            return Err(format!("region is {:?}: write it like \"eu-central-1\"", self.region));
        }
        if self.accesskey.is_empty() != self.secretkey.is_empty() {
            return Err(
                "accesskey and secretkey belong together: give both, or neither to use the machine's role".to_owned()
            );
        }
        if !self.v4auth {
            return Err("v4auth is off, but version 2 of the signatures is not spoken any more: leave it on".to_owned());
        }
        if !self.keyid.is_empty() && !self.encrypt {
            return Err("a keyid is given but encrypt is off".to_owned());
        }
        if let Some(endpoint) = self.endpoint() {
            let url: reqwest::Url = endpoint
                .parse()
                .map_err(|e| format!("regionendpoint {:?} is no URL: {e}", self.regionendpoint))?;
            let plain =
                url.username().is_empty() && url.password().is_none() && url.query().is_none();
            if !matches!(url.scheme(), "http" | "https") || !plain {
                return Err(format!(
                    "regionendpoint {:?}: write https://host:port",
                    url.host_str().unwrap_or_default()
                ));
            }
        }
        self.root().map(drop)
    }

    /// Whether both are the same folder of the same bucket, however it is reached.
    pub fn is_same_place(&self, other: &Self) -> bool {
        let place = |of: &Self| {
            let root = of.rootdirectory.trim_matches('/').to_owned();
            (of.endpoint(), of.region().to_owned(), of.bucket.clone(), root)
        };
        place(self) == place(other)
    }

    /// The URL of the service when it is not Amazon's.
    pub(crate) fn endpoint(&self) -> Option<String> {
        let endpoint = self.regionendpoint.trim().trim_end_matches('/');
        match endpoint {
            "" => None,
            _ if endpoint.contains("://") => Some(endpoint.to_owned()),
            _ if self.secure => Some(format!("https://{endpoint}")),
            _ => Some(format!("http://{endpoint}")),
        }
    }

    pub(crate) fn region(&self) -> &str {
        if self.region.is_empty() { "us-east-1" } else { &self.region }
    }

    /// The folder as the beginning of keys.
    pub(crate) fn root(&self) -> Result<Path, String> {
        Path::parse(self.rootdirectory.trim_matches('/'))
            .map_err(|e| format!("rootdirectory is {:?}: {e}", self.rootdirectory))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> S3Settings {
        S3Settings {
            region: "eu-central-1".to_owned(),
            bucket: "images".to_owned(),
            accesskey: "id".to_owned(),
            secretkey: Secret::new("hidden"),
            rootdirectory: "/registry/".to_owned(),
            ..S3Settings::default()
        }
    }

    #[test]
    fn mistakes_are_told_by_field() {
        assert_eq!(good().validate(), Ok(()));
        type Change = fn(&mut S3Settings);
        let broken: [(&str, Change); 8] = [
            ("bucket", |s| s.bucket = "s3://images".to_owned()),
            ("region", |s| s.region.clear()),
            ("region", |s| s.region = "a b".to_owned()),
            ("secretkey", |s| s.accesskey.clear()),
            ("v4auth", |s| s.v4auth = false),
            ("encrypt", |s| s.keyid = "key".to_owned()),
            ("regionendpoint", |s| s.regionendpoint = "ftp://host".to_owned()),
            ("rootdirectory", |s| s.rootdirectory = "a//b".to_owned()),
        ];
        for (field, change) in broken {
            let mut settings = good();
            change(&mut settings);
            let told = settings.validate().expect_err(field);
            assert!(told.contains(field) && !told.contains("hidden"), "{told}");
        }
    }

    #[test]
    fn the_secret_is_never_shown() {
        let mut settings = good();
        settings.regionendpoint = "minio:9000".to_owned();
        settings.secure = false;
        assert_eq!(
            settings.to_string(),
            "bucket \"images\" at http://minio:9000, below \"registry\""
        );
        assert!(!format!("{settings:?}").contains("hidden"));
    }

    #[test]
    fn a_form_of_dtr_is_read() {
        let form = r#"{"region": "us-east-1", "bucket": "b", "accesskey": "a", "secretkey": "s", "secure": true,
            "skipverify": false, "v4auth": true, "rootdirectory": "/", "storageclass": "STANDARD", "encrypt": true}"#;
        let settings: S3Settings = serde_json::from_str(form).expect("readable");
        assert_eq!(settings.validate(), Ok(()));
        let back: S3Settings =
            serde_json::from_str(&serde_json::to_string(&settings).expect("written"))
                .expect("readable");
        assert_eq!(back, settings);
        assert!(serde_json::from_str::<S3Settings>(r#"{"bukcet": "b"}"#).is_err());
    }
}
