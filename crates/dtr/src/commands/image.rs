//! `dtr image`: push, pull and copy with the product's own client, where there is no engine.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use dtr_client::{
    Credentials, ImageBuilder, Layer, Layout, Reference, Registry, RetryPolicy, TlsFlags,
    TlsOptions, Transferred,
};
use dtr_types::{Digest, RepositoryName, Secret, Tag};

use crate::{
    cli::{ImageCommand, RegistryArgs},
    failure::{Failure, Result},
    terminal::{self, size, waiting},
};

/// Most files that are made an image of.
const FILES_MAX: usize = 200_000;
/// Most layers that a folder is cut into; what is more goes into the last.
const LAYERS_MAX: usize = 100;

/// An image's name: `host[:port]/namespace/name:tag` or `...@digest`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Name {
    host: String,
    repository: RepositoryName,
    reference: Reference,
}

impl std::str::FromStr for Name {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |why: String| {
            Failure::usage(format!(
                "\"{text}\" is not the name of an image ({why}); write host[:port]/namespace/name:tag"
            ))
        };
        let (host, path) =
            text.split_once('/').ok_or_else(|| wrong("it has no host".to_owned()))?;
        if host.is_empty() || host.contains('@') {
            return Err(wrong("it has no host".to_owned()));
        }
        let (path, reference) = if let Some((path, digest)) = path.split_once('@') {
            let digest: Digest = digest.parse().map_err(|e| wrong(format!("{e}")))?;
            // A tag before a digest says nothing more.
            let path = path.rsplit_once(':').map_or(path, |(path, _)| path);
            (path, Reference::from(digest))
        } else {
            let (path, tag) = path.rsplit_once(':').unwrap_or((path, "latest"));
            let tag: Tag = tag.parse().map_err(|e| wrong(format!("{e}")))?;
            (path, Reference::from(tag))
        };
        let repository = path.parse().map_err(|e| wrong(format!("{e}")))?;
        Ok(Self { host: host.to_owned(), repository, reference })
    }
}

impl RegistryArgs {
    fn registry(
        &self,
        host: &str,
        user: Option<&str>,
        password: Option<&Secret>,
    ) -> Result<Registry> {
        let credentials = match user {
            None => Credentials::Anonymous,
            Some(username) => Credentials::Password {
                username: username.to_owned(),
                password: match password {
                    Some(password) => password.clone(),
                    None => terminal::ask_password(
                        &format!("password of {username} at {host}"),
                        "DTR_PASSWORD in the environment, or --password",
                    )?,
                },
            },
        };
        let scheme = if self.plain_http { "http" } else { "https" };
        let tls = TlsOptions {
            ca_pem: self.registry_ca.clone().filter(|pem| !pem.trim().is_empty()),
            insecure: self.insecure_tls,
            flags: TlsFlags { ca: "--registry-ca", insecure: "--insecure-tls" },
        };
        Ok(Registry::new(&format!("{scheme}://{host}"), &tls, credentials, RetryPolicy::default())?)
    }

    fn connect(&self, host: &str) -> Result<Registry> {
        self.registry(host, self.username.as_deref(), self.password.as_ref())
    }
}

/// `dtr image`
pub async fn run(command: ImageCommand) -> Result<()> {
    match command {
        ImageCommand::Push { folder, image, name, registry } => {
            let target: Name = image.parse()?;
            let registry = registry.connect(&target.host)?;
            let (layout, _made) = layout_of(&folder).await?;
            let push = registry.push_layout(
                &layout,
                name.as_deref(),
                &target.repository,
                Some(&target.reference),
            );
            let done = waiting("pushing", push).await;
            tell("pushed", &done.with_context(|| format!("cannot push {image}"))?)
        }
        ImageCommand::Pack { folder, layout, name } => {
            let image = tokio::task::spawn_blocking(move || image_of(&folder)).await??;
            let layout = Layout::create(&layout).await?;
            let digest = waiting("making layers", image.build(&layout, &name)).await?;
            terminal::print(&digest.to_string())
        }
        ImageCommand::Pull { image, folder, name, registry } => {
            let source: Name = image.parse()?;
            let registry = registry.connect(&source.host)?;
            let layout = Layout::create(&folder).await?;
            let name = name.or_else(|| match &source.reference {
                Reference::Tag(tag) => Some(tag.to_string()),
                Reference::Digest(_) => None,
            });
            let pull = registry.pull_layout(
                &source.repository,
                &source.reference,
                &layout,
                name.as_deref(),
            );
            let done = waiting("pulling", pull).await;
            tell("pulled", &done.with_context(|| format!("cannot pull {image}"))?)
        }
        ImageCommand::Copy { source, target, source_username, source_password, registry } => {
            let (from, to): (Name, Name) = (source.parse()?, target.parse()?);
            let target_registry = registry.connect(&to.host)?;
            let source_registry = match &source_username {
                Some(user) => {
                    registry.registry(&from.host, Some(user), source_password.as_ref())?
                }
                None if from.host == to.host => target_registry.clone(),
                None => registry.connect(&from.host)?,
            };
            let copy = source_registry.copy(
                &from.repository,
                &from.reference,
                &target_registry,
                &to.repository,
                Some(&to.reference),
            );
            let done = waiting("copying", copy).await;
            tell("copied", &done.with_context(|| format!("cannot copy {source} to {target}"))?)
        }
        ImageCommand::Digest { image, registry } => {
            let name: Name = image.parse()?;
            let registry = registry.connect(&name.host)?;
            let head = registry.head_manifest(&name.repository, &name.reference).await?;
            match head {
                Some(head) => terminal::print(&head.digest.to_string()),
                None => anyhow::bail!("there is no image {image}, or you may not see it"),
            }
        }
    }
}

fn tell(what: &str, done: &Transferred) -> Result<()> {
    let Transferred { blobs, bytes, existed, .. } = done;
    terminal::say(&format!(
        "{what} {blobs} blobs ({}); {existed} were there already",
        size(*bytes)
    ));
    terminal::print(&done.digest.to_string())
}

/// The folder as a layout: itself, or one made of its files, which lives as long as the second value.
async fn layout_of(folder: &Path) -> Result<(Layout, Option<Temporary>)> {
    if folder.join("oci-layout").is_file() {
        return Ok((Layout::open(folder).await?, None));
    }
    let image = {
        let folder = folder.to_owned();
        tokio::task::spawn_blocking(move || image_of(&folder)).await??
    };
    let made = Temporary::new()?;
    let layout = Layout::create(&made.0).await?;
    waiting("making layers", image.build(&layout, "image")).await?;
    Ok((layout, Some(made)))
}

/// A folder that goes when it is not needed any more.
struct Temporary(PathBuf);

impl Temporary {
    fn new() -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let name = format!("dtr-image-{:016x}", rand::random::<u64>());
        let path = std::env::temp_dir().join(name);
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot make the folder {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, folder = %self.0.display(), "a temporary folder stays");
        }
    }
}

/// An image of a folder's files: a layer for each entry of it, in the order of their names.
fn image_of(folder: &Path) -> Result<ImageBuilder> {
    let mut builder = ImageBuilder::new();
    let mut entries = sorted(folder)?;
    if entries.is_empty() {
        return Err(Failure::usage(format!(
            "{} has no files to make an image of",
            folder.display()
        )));
    }
    let rest = entries.split_off(entries.len().min(LAYERS_MAX - 1));
    let mut left = FILES_MAX;
    for group in
        entries.into_iter().map(|entry| vec![entry]).chain((!rest.is_empty()).then_some(rest))
    {
        let mut layer = Layer::new();
        for path in group {
            layer = add(layer, folder, &path, &mut left)?;
        }
        builder = builder.layer(layer);
    }
    Ok(builder)
}

fn sorted(folder: &Path) -> Result<Vec<PathBuf>> {
    let cannot = || format!("cannot read the folder {}", folder.display());
    let entries: Result<Vec<_>, _> =
        std::fs::read_dir(folder).with_context(cannot)?.map(|e| e.map(|e| e.path())).collect();
    let mut entries = entries.with_context(cannot)?;
    entries.sort();
    Ok(entries)
}

/// Files, and links to files as what they lead to; folders, but no links to folders, which could go in circles.
fn add(mut layer: Layer, root: &Path, path: &Path, left: &mut usize) -> Result<Layer> {
    let cannot = || format!("cannot read {}", path.display());
    let meta = std::fs::symlink_metadata(path).with_context(cannot)?;
    if meta.is_dir() {
        for entry in sorted(path)? {
            layer = add(layer, root, &entry, left)?;
        }
        return Ok(layer);
    }
    if !std::fs::metadata(path).is_ok_and(|meta| meta.is_file()) {
        terminal::say(&format!("left out, as it is no file: {}", path.display()));
        return Ok(layer);
    }
    *left = left
        .checked_sub(1)
        .ok_or_else(|| Failure::usage(format!("more than {FILES_MAX} files are too many")))?;
    let target = path.strip_prefix(root).unwrap_or(path);
    let target = target
        .to_str()
        .ok_or_else(|| Failure::usage(format!("{} is not UTF-8", path.display())))?;
    Ok(layer.file(target, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_images() {
        let name: Name = "127.0.0.1:5000/team/web/api:1.0".parse().expect("a name");
        assert_eq!(name.host, "127.0.0.1:5000");
        assert_eq!(name.repository.to_string(), "team/web/api");
        assert_eq!(name.reference.to_string(), "1.0");
        let name: Name = "h/team/web".parse().expect("a name");
        assert_eq!(name.reference.to_string(), "latest");
        let digest = format!("sha256:{}", "0".repeat(64));
        let name: Name = format!("h/team/web:1@{digest}").parse().expect("a name");
        assert_eq!(name.reference.to_string(), digest);
        for bad in ["", "web", "h/", "/a/b", "h/team/web:!", "h/team/web@sha256:1", "u@h/a/b"] {
            let error = bad.parse::<Name>().expect_err(bad);
            assert_eq!(crate::failure::exit_code(&error), 2, "{bad}");
        }
    }
}
