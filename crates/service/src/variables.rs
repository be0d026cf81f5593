//! Secrets and certificates out of files that a variable names: `UCP_PASSWORD_FILE=/run/secrets/password` is as good as
//! `UCP_PASSWORD=...`, and shows in no list of processes and in no description of a container.

use std::{ffi::OsString, fs::File, io::Read as _, path::PathBuf};

use clap::{Arg, Command};

use crate::{ServiceError, file_error};

/// The largest file that is read: more than any chain of certificates.
const FILE_MAX: u64 = 1 << 20;

/// Gives every flag whose variable holds a secret or a certificate (its value is not shown in the help) the content of the
/// file that `<VARIABLE>_FILE` names, without the line break at its end. The flag and the variable itself come first.
///
/// # Errors
/// [`ServiceError::File`] when a file that is named cannot be read.
pub fn with_files(
    command: Command,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Command, ServiceError> {
    let mut wrong = None;
    let command = walk(command, environment, &mut wrong);
    wrong.map_or(Ok(command), Err)
}

fn walk(
    command: Command,
    environment: &dyn Fn(&str) -> Option<OsString>,
    wrong: &mut Option<ServiceError>,
) -> Command {
    let command = command.mut_args(|arg| match content(&arg, environment) {
        None => arg,
        Some(Ok(text)) => arg.default_value(text).hide_default_value(true),
        Some(Err(error)) => {
            *wrong = Some(error);
            arg
        }
    });
    command.mut_subcommands(|subcommand| walk(subcommand, environment, wrong))
}

fn content(
    arg: &Arg,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Option<Result<String, ServiceError>> {
    let given = |name: &str| environment(name).filter(|value| !value.is_empty());
    let name = arg.get_env().filter(|_| arg.is_hide_env_values_set())?.to_str()?;
    if given(name).is_some() {
        return None;
    }
    let path = PathBuf::from(given(&format!("{name}_FILE"))?);
    let mut text = String::new();
    let read = File::open(&path).and_then(|file| file.take(FILE_MAX).read_to_string(&mut text));
    Some(
        read.map_err(file_error("read", &path))
            .map(|_| text.trim_end_matches(['\n', '\r']).to_owned()),
    )
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "what fails here fails the test")]
mod tests {
    use super::*;

    fn program() -> Command {
        let secret = Arg::new("password").long("password").env("TEST_OF_FILES_PASSWORD");
        let open = Arg::new("name").long("name").env("TEST_OF_FILES_NAME");
        let install = Command::new("install").arg(secret.hide_env_values(true)).arg(open);
        Command::new("program").subcommand(install)
    }

    fn parsed(variables: &[(&str, &str)], line: &[&str]) -> Result<Option<String>, String> {
        let environment = |name: &str| {
            variables.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value))
        };
        let command = with_files(program(), &environment).map_err(|error| error.to_string())?;
        let line = ["program", "install"].into_iter().chain(line.iter().copied());
        let matches = command.try_get_matches_from(line).map_err(|error| error.to_string())?;
        let (_, install) = matches.subcommand().unwrap();
        Ok(install.get_one::<String>("password").cloned())
    }

    #[test]
    fn a_secret_is_read_from_the_file_that_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        std::fs::write(&file, "two words\n").unwrap();
        let file = file.to_str().unwrap();
        let named = [("TEST_OF_FILES_PASSWORD_FILE", file)];
        assert_eq!(parsed(&named, &[]), Ok(Some("two words".to_owned())));
        assert_eq!(parsed(&named, &["--password", "given"]), Ok(Some("given".to_owned())));
        assert_eq!(parsed(&[("TEST_OF_FILES_PASSWORD_FILE", "")], &[]), Ok(None));
        assert_eq!(parsed(&[("TEST_OF_FILES_NAME_FILE", file)], &[]), Ok(None), "no secret");
        let help = parsed(&named, &["--help"]).unwrap_err();
        assert!(!help.contains("two words"), "{help}");
        let error = parsed(&[("TEST_OF_FILES_PASSWORD_FILE", "/nowhere/at/all")], &[]).unwrap_err();
        assert!(error.contains("/nowhere/at/all"), "{error}");
    }
}
