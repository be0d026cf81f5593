//! One replica on its machine: its data directory, what it is made of, install, restore, serve.
//!
//! - [`DataDir`] and [`ReplicaConfig`]: what lies on disk besides the store.
//! - [`install`] makes a replica of a new cluster.
//! - [`serve`] puts the rooms together and serves them ([`bind`] stops in between): after `serve.rs` one knows every part.

mod aside;
mod assets;
mod changes;
mod clocks;
mod cluster;
mod config;
mod data_dir;
mod fence;
mod follow;
mod front;
mod health;
mod heartbeat;
mod install;
mod lifecycle;
mod mark;
mod metadata;
mod nfs;
mod occupant;
mod own_routes;
mod place;
mod places;
mod ports;
mod repair;
mod restart;
mod restore;
mod serve;
mod storage;
mod survivor;
mod traces;
mod upkeep;
mod who;

pub use aside::{Aside, put_aside};
pub use assets::{AssetError, UserCertificate};
pub use cluster::{EtcdOptions, GivenEtcd, JoinError, Joining, StoreOptions};
pub use config::{ConfigError, ReplicaConfig, StorageConfig, StoreConfig, any_address};
pub use data_dir::DataDir;
pub use install::{IdentityOptions, InstallError, Installed, ReplicaOptions, UcpLogin, install};
pub use lifecycle::{
    DestroyError, DestroyPlan, Known, Loss, OfflineError, backup_offline, destroy, is_ready, ping,
    plan_destroy, running, start, stop,
};
pub use mark::{MarkError, check_copy};
pub use metadata::{Metadata, OpenError};
pub use nfs::{NfsShare, ShareError};
pub use occupant::unoccupied;
pub use ports::try_ports;
pub use repair::{Alone, RepairError, repair, survey};
pub use restart::Ended;
pub use restore::{Before, Outcome, RestoreError, RestoreRequest, Restored, restore};
pub use serve::{Opened, ServeError, Serving, bind, open, serve};

pub use storage::{check_storage, open_storage};
pub use survivor::SurvivorError;

pub use dtr_blobs_s3::S3Settings;
pub use dtr_cluster::{Admission, CLIENT_PORT, EtcdConfig, JoinRequest, PEER_PORT};
pub use dtr_service::begin_session;
