//! Flags that say where image content is: a folder, or a bucket of an S3-compatible service.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use dtr_replica::{NfsShare, S3Settings, ShareError, StorageConfig};
use dtr_types::Secret;

use crate::failure::{Failure, Result};

/// Where image content is.
#[derive(Debug, Args)]
pub struct StorageArgs {
    /// Folder of image content [default: inside the data directory]
    #[arg(long, env = "DTR_STORAGE_VOLUME", value_name = "DIR", conflicts_with_all = ["s3_bucket", "s3_form"])]
    pub dtr_storage_volume: Option<PathBuf>,
    /// Share of an NFS server, mounted by the replica: nfs://host/path[?options]
    #[arg(long, env = "NFS_STORAGE_URL", value_name = "URL")]
    #[arg(conflicts_with_all = ["dtr_storage_volume", "s3_bucket", "s3_form"])]
    pub nfs_storage_url: Option<String>,
    /// Options of the mount, as vers=4.2,hard
    #[arg(long, env = "NFS_OPTIONS", value_name = "OPTIONS", requires = "nfs_storage_url")]
    pub nfs_options: Option<String>,
    #[command(flatten)]
    pub s3: S3Args,
}

/// A bucket for image content.
#[derive(Debug, Args)]
pub struct S3Args {
    /// Bucket of image content, which must exist
    #[arg(long, env = "DTR_S3_BUCKET", value_name = "NAME")]
    pub s3_bucket: Option<String>,
    /// Its region, as eu-central-1
    #[arg(long, env = "DTR_S3_REGION", value_name = "REGION", requires = "s3_bucket")]
    pub s3_region: Option<String>,
    /// Address of the service when it is not Amazon's: https://host:port
    #[arg(long, env = "DTR_S3_ENDPOINT", value_name = "URL", requires = "s3_bucket")]
    pub s3_endpoint: Option<String>,
    /// Access key; without one the role of the machine is used
    #[arg(long, env = "DTR_S3_ACCESS_KEY", value_name = "ID", requires = "s3_bucket")]
    pub s3_access_key: Option<String>,
    /// Its secret; better given in the environment, where it may stand without a bucket
    #[arg(
        long,
        env = "DTR_S3_SECRET_KEY",
        hide_env_values = true,
        value_name = "SECRET",
        allow_hyphen_values = true
    )]
    pub s3_secret_key: Option<Secret>,
    /// Folder in the bucket below which everything is
    #[arg(long, env = "DTR_S3_ROOT", value_name = "PATH", requires = "s3_bucket")]
    pub s3_root: Option<String>,
    /// File with the CAs (PEM) that the certificate of the service may come from, besides the system's
    #[arg(long, env = "DTR_S3_CA_FILE", value_name = "FILE", requires = "s3_bucket")]
    pub s3_ca_file: Option<PathBuf>,
    /// Believe the service whatever certificate it shows (for trials)
    #[arg(long, env = "DTR_S3_INSECURE_TLS", requires = "s3_bucket", value_parser = clap::builder::FalseyValueParser::new())]
    pub s3_insecure_tls: bool,
    /// Storage class of blobs, as STANDARD_IA
    #[arg(long, env = "DTR_S3_STORAGE_CLASS", value_name = "CLASS", requires = "s3_bucket")]
    pub s3_storage_class: Option<String>,
    /// Have the service encrypt what it stores
    #[arg(long, env = "DTR_S3_ENCRYPT", requires = "s3_bucket", value_parser = clap::builder::FalseyValueParser::new())]
    pub s3_encrypt: bool,
    /// Key of the service's key management to encrypt with
    #[arg(long, env = "DTR_S3_KEY_ID", value_name = "KEY", requires = "s3_encrypt")]
    pub s3_key_id: Option<String>,
    /// Form of DTR's storage settings (JSON, the fields of the s3 driver), instead of these flags
    #[arg(long, env = "DTR_S3_FORM", value_name = "FILE", conflicts_with = "s3_bucket")]
    pub s3_form: Option<PathBuf>,
}

impl StorageArgs {
    /// Whether any place was named.
    pub fn is_given(&self) -> bool {
        self.dtr_storage_volume.is_some() || self.is_bucket() || self.nfs_storage_url.is_some()
    }

    /// Whether a bucket was named.
    pub fn is_bucket(&self) -> bool {
        self.s3.s3_bucket.is_some() || self.s3.s3_form.is_some()
    }

    /// The place that was named; without any the folder inside the data directory.
    pub fn config(&self) -> Result<StorageConfig> {
        if let Some(url) = &self.nfs_storage_url {
            let share: Result<NfsShare, ShareError> = url.parse();
            let options = self.nfs_options.as_deref().unwrap_or_default();
            let share = share.and_then(|share| share.with_options(options));
            let url =
                share.map_err(|error| Failure::usage(format!("--nfs-storage-url: {error}")))?;
            return Ok(StorageConfig::Nfs { url });
        }
        match self.s3.settings()? {
            Some(settings) => Ok(StorageConfig::S3(Box::new(settings))),
            None => {
                let root = self.dtr_storage_volume.as_deref().map(whole).transpose()?;
                Ok(StorageConfig::Filesystem { root })
            }
        }
    }
}

impl S3Args {
    /// The bucket that was named, if any.
    pub fn settings(&self) -> Result<Option<S3Settings>> {
        let settings = match (&self.s3_form, &self.s3_bucket) {
            (Some(form), _) => read_form(form)?,
            (None, Some(bucket)) => self.flags(bucket)?,
            (None, None) => return Ok(None),
        };
        settings.validate().map_err(Failure::usage)?;
        Ok(Some(settings))
    }

    fn flags(&self, bucket: &str) -> Result<S3Settings> {
        let text = |given: &Option<String>| given.clone().unwrap_or_default();
        let rootcas = match &self.s3_ca_file {
            Some(path) => read(path)?,
            None => String::new(),
        };
        Ok(S3Settings {
            region: text(&self.s3_region),
            regionendpoint: text(&self.s3_endpoint),
            bucket: bucket.to_owned(),
            accesskey: text(&self.s3_access_key),
            secretkey: self.s3_secret_key.clone().unwrap_or_default(),
            rootdirectory: text(&self.s3_root),
            skipverify: self.s3_insecure_tls,
            rootcas,
            storageclass: text(&self.s3_storage_class),
            encrypt: self.s3_encrypt,
            keyid: text(&self.s3_key_id),
            ..S3Settings::default()
        })
    }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// A form, alone or as the driver's part of a registry's configuration.
fn read_form(path: &Path) -> Result<S3Settings> {
    let form = |e: serde_json::Error| {
        Failure::usage(format!("{} is not a form of an s3 storage: {e}", path.display()))
    };
    let mut whole: serde_json::Value = serde_json::from_str(&read(path)?).map_err(form)?;
    for outer in ["storage", "s3"] {
        if let Some(inner) = whole.get_mut(outer) {
            whole = inner.take();
        }
    }
    serde_json::from_value(whole).map_err(form)
}

/// A folder by its whole name.
fn whole(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("cannot use the folder {}", path.display()))
}
