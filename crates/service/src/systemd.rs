//! Units of systemd, where it runs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{ServiceError, file_error};

/// Where an administrator's units are.
const UNITS: &str = "/etc/systemd/system";

/// A service's unit.
#[derive(Clone, Debug)]
pub struct Unit {
    /// Its name without `.service`: letters, digits, dashes.
    pub name: String,
    /// What it is.
    pub description: String,
    /// The program and its arguments; none of them has blanks at its ends or line breaks.
    pub command: Vec<String>,
    /// Folders that must be mounted before it starts, if they are on a file system of their own.
    pub mounts: Vec<PathBuf>,
}

/// Whether systemd runs this machine (the test of `sd_booted(3)`), and this user may add units.
pub fn is_available() -> bool {
    Path::new("/run/systemd/system").is_dir() && rustix::process::geteuid().is_root()
}

impl Unit {
    /// The file of the unit.
    pub fn path(&self) -> PathBuf {
        Path::new(UNITS).join(format!("{}.service", self.name))
    }

    /// The unit's text. A replica is ready once its store answers, which may wait for another machine, and ends its etcd
    /// itself. Units for machines that are set up by other means, which allow less: `deploy/systemd`.
    pub fn text(&self) -> String {
        let command: Vec<String> = self.command.iter().map(|word| quote(word)).collect();
        let mounts: String = self
            .mounts
            .iter()
            .map(|path| format!("RequiresMountsFor={}\n", quote(&path.display().to_string())))
            .collect();
        format!(
            "[Unit]\nDescription={}\nAfter=network-online.target\nWants=network-online.target\n{mounts}\n\
             [Service]\nType=notify\nExecStart={}\nRestart=on-failure\nRestartSec=2\nLimitNOFILE=65536\n\
             TimeoutStartSec=infinity\nKillMode=mixed\nTimeoutStopSec=60\n\n[Install]\nWantedBy=multi-user.target\n",
            self.description.replace(['\n', '%'], " "),
            command.join(" ")
        )
    }

    /// Writes the unit, and starts it now and at every boot. Returns when the service says that it is ready.
    ///
    /// # Errors
    /// [`ServiceError`] with what systemd said.
    pub fn start(&self) -> Result<(), ServiceError> {
        let path = self.path();
        fs::write(&path, self.text()).map_err(file_error("written", &path))?;
        systemctl(&["daemon-reload"])?;
        systemctl(&["enable", "--now", &self.name])
    }

    /// Stops the service until it is started again or the machine is. No error when there is no unit.
    ///
    /// # Errors
    /// [`ServiceError`] with what systemd said.
    pub fn stop(&self) -> Result<(), ServiceError> {
        if self.path().exists() { systemctl(&["stop", &self.name]) } else { Ok(()) }
    }

    /// Stops the service and removes its unit. No error when there is none.
    ///
    /// # Errors
    /// [`ServiceError`] with what systemd said.
    pub fn remove(&self) -> Result<(), ServiceError> {
        let path = self.path();
        if !path.exists() {
            return Ok(());
        }
        systemctl(&["disable", "--now", &self.name])?;
        fs::remove_file(&path).map_err(file_error("removed", &path))?;
        systemctl(&["daemon-reload"])
    }
}

/// A word of a command line as systemd reads it (systemd.service(5), "Command lines").
fn quote(word: &str) -> String {
    let escaped = word
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('%', "%%")
        .replace('$', "$$")
        .replace('\n', "\\n");
    format!("\"{escaped}\"")
}

fn systemctl(args: &[&str]) -> Result<(), ServiceError> {
    let program = format!("systemctl {}", args.join(" "));
    let output = Command::new("systemctl")
        .args(args)
        .output()
        .map_err(|source| ServiceError::Spawn { program: program.clone(), source })?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(ServiceError::Failed { program, message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_systemd() {
        let unit = Unit {
            name: "dtr-a1640e1c15b6".to_owned(),
            description: "a registry".to_owned(),
            command: ["/usr/bin/dtr", "serve", "--data-dir", "/srv/my $data 100%\"x\""]
                .map(str::to_owned)
                .to_vec(),
            mounts: vec![PathBuf::from("/mnt/my images")],
        };
        assert!(
            unit.text().contains("\nRequiresMountsFor=\"/mnt/my images\"\n\n[Service]"),
            "{}",
            unit.text()
        );
        let exec = "ExecStart=\"/usr/bin/dtr\" \"serve\" \"--data-dir\" \"/srv/my $$data 100%%\\\"x\\\"\"\n";
        assert!(unit.text().contains(exec), "{}", unit.text());
        assert_eq!(unit.path().to_str(), Some("/etc/systemd/system/dtr-a1640e1c15b6.service"));
    }
}
