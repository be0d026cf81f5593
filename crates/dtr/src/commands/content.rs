//! `dtr repo`, `dtr grant`, `dtr tag`: what a registry holds, and what teams may do with it.

use anyhow::Context as _;
use dtr_client::PageStyle;
use dtr_types::RepositoryName;
use serde_json::{Map, Value, json};

use super::connect;
use crate::{
    cli::{GrantCommand, Output, RepoCommand, TagCommand, Target},
    failure::{Failure, Result},
    terminal::{self, Table, field},
};

/// A repository's path; a slash in the name is one of the name, not of the path.
fn path(repository: &RepositoryName) -> String {
    let name = repository.name().replace('/', "%2F");
    format!("/api/v0/repositories/{}/{name}", repository.namespace())
}

/// `dtr repo`
pub async fn repo(command: RepoCommand) -> Result<()> {
    match command {
        RepoCommand::List { namespace, admin } => {
            connect::with(&admin.connect, async |c| {
                let path = match &namespace {
                    Some(namespace) => format!("/api/v0/repositories/{namespace}"),
                    None => "/api/v0/repositories".to_owned(),
                };
                let all: Vec<Value> = c
                    .api
                    .list(&path, PageStyle::Dtr, "repositories", 100)
                    .await
                    .context("cannot list repositories")?;
                show(admin.output, &all)
            })
            .await
        }
        RepoCommand::Show { repository, admin } => {
            connect::with(&admin.connect, async |c| {
                let found: Value = c.api.get(&path(&repository)).await?;
                match admin.output {
                    Output::Json => terminal::print_json(&found),
                    Output::Text => show(Output::Text, &[found]),
                }
            })
            .await
        }
        RepoCommand::Create {
            repository,
            public,
            immutable_tags,
            tag_limit,
            description,
            admin,
        } => {
            let new = json!({
                "name": repository.name(),
                "visibility": if public { "public" } else { "private" },
                "immutableTags": immutable_tags,
                "tagLimit": tag_limit.unwrap_or_default(),
                "shortDescription": description,
            });
            connect::with(&admin.connect, async |c| {
                let path = format!("/api/v0/repositories/{}", repository.namespace());
                let made: Value = c
                    .api
                    .post(&path, &new)
                    .await
                    .with_context(|| format!("cannot make repository {repository}"))?;
                said(admin.output, &made, &format!("made repository {repository}"))
            })
            .await
        }
        RepoCommand::Update {
            repository,
            visibility,
            immutable_tags,
            tag_limit,
            description,
            admin,
        } => {
            let mut change = Map::new();
            if let Some(visibility) = visibility {
                change.insert("visibility".to_owned(), visibility.as_str().into());
            }
            if let Some(immutable) = immutable_tags {
                change.insert("immutableTags".to_owned(), immutable.into());
            }
            if let Some(limit) = tag_limit {
                change.insert("tagLimit".to_owned(), limit.into());
            }
            if let Some(text) = description {
                change.insert("shortDescription".to_owned(), text.into());
            }
            if change.is_empty() {
                return Err(Failure::usage(
                    "nothing to change: give --visibility, --immutable-tags, --tag-limit or --description",
                ));
            }
            connect::with(&admin.connect, async |c| {
                let changed: Value = c
                    .api
                    .patch(&path(&repository), &change)
                    .await
                    .with_context(|| format!("cannot change repository {repository}"))?;
                said(admin.output, &changed, &format!("changed repository {repository}"))
            })
            .await
        }
        RepoCommand::Delete { repository, admin } => {
            connect::with(&admin.connect, async |c| {
                let there = c.api.delete(&path(&repository)).await?;
                deleted(there, admin.output, &format!("repository {repository}"))
            })
            .await
        }
    }
}

fn show(output: Output, repositories: &[Value]) -> Result<()> {
    if output == Output::Json {
        return terminal::print_json(&repositories);
    }
    let headings = ["REPOSITORY", "VISIBILITY", "IMMUTABLE", "PULLS", "PUSHES", "DESCRIPTION"];
    let mut table = Table::new(&headings);
    for r in repositories {
        let name = format!("{}/{}", field(r, "namespace"), field(r, "name"));
        let fields = ["visibility", "immutableTags", "pulls", "pushes", "shortDescription"];
        table.row(std::iter::once(name).chain(fields.map(|name| field(r, name))));
    }
    table.print()
}

fn said(output: Output, value: &Value, text: &str) -> Result<()> {
    match output {
        Output::Json => terminal::print_json(value),
        Output::Text => terminal::print(text),
    }
}

fn deleted(there: bool, output: Output, what: &str) -> Result<()> {
    if !there {
        anyhow::bail!("there is no {what}, or you may not see it");
    }
    said(output, &json!({"deleted": what}), &format!("deleted {what}"))
}

fn access(target: &Target) -> String {
    match target {
        Target::Repository(repository) => format!("{}/teamAccess", path(repository)),
        Target::Namespace(name) => format!("/api/v0/repositoryNamespaces/{name}/teamAccess"),
    }
}

fn named(target: &Target) -> String {
    match target {
        Target::Repository(repository) => repository.to_string(),
        Target::Namespace(name) => format!("all repositories of {name}"),
    }
}

/// `dtr grant`
pub async fn grant(command: GrantCommand) -> Result<()> {
    match command {
        GrantCommand::List { target, admin } => {
            connect::with(&admin.connect, async |c| {
                let answer: Value = c
                    .api
                    .get(&access(&target))
                    .await
                    .with_context(|| format!("cannot list who may use {}", named(&target)))?;
                let teams = answer["teamAccessList"].as_array().cloned().unwrap_or_default();
                if admin.output == Output::Json {
                    return terminal::print_json(&teams);
                }
                let mut table = Table::new(&["TEAM", "LEVEL"]);
                for grant in &teams {
                    let team = match field(grant, "team/name") {
                        name if name.is_empty() => format!("(gone: {})", field(grant, "team/id")),
                        name => name,
                    };
                    table.row([team, field(grant, "accessLevel")]);
                }
                table.print()
            })
            .await
        }
        GrantCommand::Set { target, team, level, admin } => {
            connect::with(&admin.connect, async |c| {
                let path = format!("{}/{team}", access(&target));
                let set: Option<Value> =
                    c.api.put(&path, &json!({"accessLevel": level.as_str()})).await.with_context(
                        || format!("cannot give {team} a level on {}", named(&target)),
                    )?;
                let text = format!("{team} has {} on {}", level.as_str(), named(&target));
                said(admin.output, &set.unwrap_or_default(), &text)
            })
            .await
        }
        GrantCommand::Remove { target, team, admin } => {
            connect::with(&admin.connect, async |c| {
                let there = c.api.delete(&format!("{}/{team}", access(&target))).await?;
                deleted(there, admin.output, &format!("level of {team} on {}", named(&target)))
            })
            .await
        }
    }
}

/// `dtr tag`
pub async fn tag(command: TagCommand) -> Result<()> {
    match command {
        TagCommand::List { repository, admin } => {
            connect::with(&admin.connect, async |c| {
                let tags: Vec<Value> = c
                    .api
                    .list(&format!("{}/tags", path(&repository)), PageStyle::Dtr, "tags", 100)
                    .await
                    .with_context(|| format!("cannot list the tags of {repository}"))?;
                show_tags(admin.output, &tags)
            })
            .await
        }
        TagCommand::Show { repository, tag, admin } => {
            connect::with(&admin.connect, async |c| {
                let path = format!("{}/tags/{tag}?includeManifests=true", path(&repository));
                let found: Value = c.api.get(&path).await?;
                // The original answers with a list of one.
                let found = match found {
                    Value::Array(mut list) if list.len() == 1 => list.remove(0),
                    other => other,
                };
                match admin.output {
                    Output::Json => terminal::print_json(&found),
                    Output::Text => show_tags(Output::Text, &[found]),
                }
            })
            .await
        }
        TagCommand::Delete { repository, tag, with_image, admin } => {
            connect::with(&admin.connect, async |c| {
                if with_image {
                    let found: Value =
                        c.api.get(&format!("{}/tags/{tag}", path(&repository))).await?;
                    let digest = field(&found, "digest");
                    let image = format!("{}/manifests/{digest}", path(&repository));
                    let there = c.api.delete(&image).await?;
                    let what = format!("{repository}@{digest} with its tags");
                    return deleted(there, admin.output, &what);
                }
                let there =
                    c.api.delete_existing(&format!("{}/tags/{tag}", path(&repository))).await?;
                deleted(there, admin.output, &format!("tag {repository}:{tag}"))
            })
            .await
        }
    }
}

fn show_tags(output: Output, tags: &[Value]) -> Result<()> {
    if output == Output::Json {
        return terminal::print_json(&tags);
    }
    let mut table = Table::new(&["TAG", "DIGEST", "PUSHED BY", "PUSHED AT"]);
    for tag in tags {
        table.row(["name", "digest", "author", "updatedAt"].map(|name| field(tag, name)));
    }
    table.print()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_in_a_name_is_no_part_of_the_path() {
        let name = "org/a/b".parse().expect("a name");
        assert_eq!(path(&name), "/api/v0/repositories/org/a%2Fb");
        let namespace: Target = "org".parse().expect("a namespace");
        assert_eq!(access(&namespace), "/api/v0/repositoryNamespaces/org/teamAccess");
    }
}
