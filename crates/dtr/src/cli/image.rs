//! `dtr image`: the product's own registry client, for machines without an engine and for scripts.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use dtr_types::Secret;

/// How to reach a registry and prove who is asking.
#[derive(Debug, Clone, Args)]
pub struct RegistryArgs {
    /// User name
    #[arg(long, short, env = "DTR_USERNAME", value_name = "NAME")]
    pub username: Option<String>,
    /// Password or access token; asked for on a terminal when left out
    #[arg(
        long,
        env = "DTR_PASSWORD",
        hide_env_values = true,
        allow_hyphen_values = true,
        value_name = "PASSWORD",
        requires = "username"
    )]
    pub password: Option<Secret>,
    /// PEM text of the authority behind the registry's certificate, such as "$(cat ca.pem)"
    #[arg(
        long,
        env = "DTR_REGISTRY_CA",
        hide_env_values = true,
        value_name = "PEM",
        allow_hyphen_values = true
    )]
    pub registry_ca: Option<String>,
    /// Do not verify the registry's certificate: anybody in between can listen
    #[arg(long)]
    pub insecure_tls: bool,
    /// Speak plain HTTP: everybody in between can listen
    #[arg(long, conflicts_with_all = ["insecure_tls", "registry_ca"])]
    pub plain_http: bool,
}

/// `dtr image`
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Push an image from a folder and print its digest
    Push {
        /// An OCI image layout; or any other folder, which becomes an image with a layer for each entry of it
        folder: PathBuf,
        /// host[:port]/namespace/name:tag
        image: String,
        /// The image of the layout, by its name there, where it has several
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        registry: RegistryArgs,
    },
    /// Make an image of a folder's files in an OCI image layout and print its digest
    Pack {
        /// The folder; becomes an image with a layer for each entry of it
        folder: PathBuf,
        /// Folder of the layout; made when it is not there
        layout: PathBuf,
        /// The image's name in the layout
        #[arg(long, default_value = "latest")]
        name: String,
    },
    /// Pull an image into an OCI image layout and print its digest
    Pull {
        /// host[:port]/namespace/name:tag or ...@digest
        image: String,
        /// Folder of the layout; made when it is not there
        folder: PathBuf,
        /// The image's name in the layout [default: the tag]
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        registry: RegistryArgs,
    },
    /// Copy an image between registries or repositories and print its digest
    Copy {
        /// host[:port]/namespace/name:tag or ...@digest
        source: String,
        /// host[:port]/namespace/name:tag
        target: String,
        /// User name at the source [default: --username]
        #[arg(long, value_name = "NAME")]
        source_username: Option<String>,
        /// Password or access token at the source
        #[arg(
            long,
            env = "DTR_SOURCE_PASSWORD",
            hide_env_values = true,
            allow_hyphen_values = true,
            value_name = "PASSWORD",
            requires = "source_username"
        )]
        source_password: Option<Secret>,
        #[command(flatten)]
        registry: RegistryArgs,
    },
    /// Print the digest of an image without pulling it
    Digest {
        /// host[:port]/namespace/name:tag
        image: String,
        #[command(flatten)]
        registry: RegistryArgs,
    },
}
