//! Commands that work on a replica of this machine: the flags become the options of `dtr_replica`.

use crate::{
    cli::{DestroyArgs, InstallArgs, RestoreArgs, ServeArgs, UpgradeArgs},
    failure::{Failure, Result},
    terminal,
};

fn not_here() -> anyhow::Error {
    Failure::ending(dtr_recovery::Exit::Failed, "this build has no replica in it")
}

pub async fn install(_: InstallArgs) -> Result<()> {
    Err(not_here())
}
pub async fn serve(_: ServeArgs, _: bool) -> Result<()> {
    Err(not_here())
}
pub async fn destroy(args: DestroyArgs) -> Result<()> {
    let question = format!("delete everything in {}?", args.dir.data_dir.display());
    if !args.yes && !terminal::confirm(&question, "--yes")? {
        return Err(Failure::ending(dtr_recovery::Exit::Refused, "nothing was changed"));
    }
    Err(not_here())
}
pub async fn restore(_: RestoreArgs) -> Result<()> {
    Err(not_here())
}
pub async fn upgrade(_: UpgradeArgs) -> Result<()> {
    Err(not_here())
}
