//! From flags to a connection: locally through the socket in a data directory, or through the identity service to a
//! replica that is registered there.

use std::{
    io,
    os::{fd::AsRawFd as _, fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use dtr_client::{
    Api, Authorization, ClientError, Identity, RetryPolicy, Service, Session, TlsOptions,
};
use dtr_service::local::SOCKET;
use dtr_types::{AccountName, ReplicaId, Secret};
use serde_json::Value;

use crate::{
    cli::{ConnectArgs, UcpArgs},
    failure::{Failure, Result},
    terminal,
};

/// Commands are for people who wait: a few attempts, then the reason.
pub const RETRY: RetryPolicy = RetryPolicy {
    attempts: 4,
    first_wait: Duration::from_millis(200),
    longest_wait: Duration::from_secs(5),
};

/// Longest path of a socket that the system takes, less the zero at its end.
const SOCKET_PATH_MAX: usize = 107;

/// A replica, and who is asking.
pub struct Connection {
    /// The replica's REST interface.
    pub api: Api,
    /// Where accounts are kept.
    pub accounts: Api,
    /// Who asks.
    who: Who,
    /// Keeps a long socket path usable.
    _directory: Option<OwnedFd>,
}

/// Who asks.
enum Who {
    /// Who may read the data directory.
    Local,
    /// Who logged in, and with which password.
    Session(Box<(Identity, Session, Secret)>),
    /// Whose access token it is; it is sent with every request, and there is no session.
    Token,
}

/// The identity service with everything that was left out asked for.
#[derive(Clone, Debug)]
pub struct UcpLogin {
    /// Its address.
    pub url: String,
    /// Who acts.
    pub username: String,
    /// The password.
    pub password: Secret,
    /// How it is verified.
    pub tls: TlsOptions,
}

/// A replica of a data directory that is not running.
#[derive(Debug, thiserror::Error)]
#[error("the replica of {} is not running ({why}); start it with \"dtr serve --data-dir {}\"", .dir.display(), .dir.display())]
pub struct NotRunning {
    /// The data directory.
    pub dir: PathBuf,
    why: String,
}

fn given(text: Option<&String>) -> Option<String> {
    text.map(|text| text.trim()).filter(|text| !text.is_empty()).map(ToOwned::to_owned)
}

impl UcpArgs {
    /// How the identity service is verified.
    pub fn tls(&self) -> TlsOptions {
        TlsOptions {
            ca_pem: given(self.ucp_ca.as_ref()),
            insecure: self.ucp_insecure_tls,
            ..TlsOptions::default()
        }
    }

    /// Asks on the terminal for what was left out.
    pub fn complete(&self) -> Result<UcpLogin> {
        let url = match given(self.ucp_url.as_ref()) {
            Some(url) => url,
            None => terminal::ask("UCP URL", "--ucp-url, or UCP_URL in the environment")?,
        };
        if dtr_identity::sends_in_the_clear(&url) {
            terminal::say(&format!(
                "warning: {} is not encrypted: whoever is in between reads the password; use https://",
                terminal::harmless(&url)
            ));
        }
        let username = match given(self.ucp_username.as_ref()) {
            Some(name) => name,
            None => {
                terminal::ask("UCP username", "--ucp-username, or UCP_USERNAME in the environment")?
            }
        };
        let password = match &self.ucp_password {
            Some(token) if is_access_token(token) => {
                return Err(Failure::usage(
                    "an access token is not enough for this: give the password of an administrator",
                ));
            }
            Some(password) if !password.is_empty() => password.clone(),
            _ => terminal::ask_password(
                &format!("UCP password of {username}"),
                "UCP_PASSWORD in the environment, or --ucp-password",
            )?,
        };
        Ok(UcpLogin { url, username, password, tls: self.tls() })
    }
}

impl ConnectArgs {
    /// How an access token is sent, if one was given: by itself, or in place of the password.
    pub fn token(&self) -> Result<Option<Authorization>> {
        if let Some(token) = self.ucp_token.as_ref().filter(|token| !token.is_empty()) {
            return Ok(Some(Authorization::Bearer(token.clone())));
        }
        let token = self.ucp.ucp_password.as_ref().filter(|text| is_access_token(text));
        let Some(token) = token else { return Ok(None) };
        let username = match given(self.ucp.ucp_username.as_ref()) {
            Some(name) => name,
            None => {
                terminal::ask("UCP username", "--ucp-username, or UCP_USERNAME in the environment")?
            }
        };
        Ok(Some(Authorization::Basic { username, password: token.clone() }))
    }
}

/// Whether a text has the form of a registry's access token: it never goes to an identity service.
fn is_access_token(text: &Secret) -> bool {
    let digits = text.expose().strip_prefix("dtr_");
    digits.is_some_and(|d| d.len() == 64 && d.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Connects, works, and ends the session however the work ended.
pub async fn with<T>(
    args: &ConnectArgs,
    work: impl AsyncFnOnce(&Connection) -> Result<T>,
) -> Result<T> {
    let connection = connect(args).await?;
    let done = work(&connection).await;
    connection.close().await;
    done
}

/// Connects. The identity service's address, if one was given, comes before a data directory.
///
/// # Errors
/// [`NotRunning`] for a data directory whose replica is not served; else what could not be reached, and why.
pub async fn connect(args: &ConnectArgs) -> Result<Connection> {
    match (&args.ucp.ucp_url, &args.data_dir) {
        (None, Some(dir)) => {
            same_replica(dir, args.existing_replica_id.as_ref())?;
            local(dir)
        }
        _ => remote(args).await,
    }
}

/// Refuses a folder that holds another replica than the one that was named.
fn same_replica(dir: &Path, wanted: Option<&ReplicaId>) -> Result<()> {
    let Some(wanted) = wanted else { return Ok(()) };
    // What cannot be read is told by the connection.
    match dtr_replica::ReplicaConfig::load(&dtr_replica::DataDir::new(dir)) {
        Ok(config) if config.id != *wanted => {
            let what = format!("{} holds replica {}, not {wanted}", dir.display(), config.id);
            Err(Failure::ending(dtr_recovery::Exit::Refused, what))
        }
        _ => Ok(()),
    }
}

/// Through the socket.
fn local(dir: &Path) -> Result<Connection> {
    let path = dir.join(SOCKET);
    let (through, directory) = if path.as_os_str().len() <= SOCKET_PATH_MAX {
        (path.clone(), None)
    } else {
        use rustix::fs::{Mode, OFlags, open};
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = open(dir, flags, Mode::empty())
            .with_context(|| format!("cannot open {}", dir.display()))?;
        (PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", fd.as_raw_fd())), Some(fd))
    };
    if let Err(error) = UnixStream::connect(&through) {
        return Err(match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                let why = match dir.is_dir() {
                    true => format!("nothing listens on {SOCKET} in it"),
                    false => "there is no such folder".to_owned(),
                };
                anyhow::Error::new(NotRunning { dir: dir.to_owned(), why })
            }
            io::ErrorKind::PermissionDenied => anyhow::Error::new(error).context(format!(
                "cannot open {}; run this as the user that owns it (or root), or log in with --ucp-url",
                path.display()
            )),
            _ => anyhow::Error::new(error).context(format!("cannot connect to {}", path.display())),
        });
    }
    let api = Api::over_socket(&through, RETRY)?;
    Ok(Connection { accounts: api.clone(), api, who: Who::Local, _directory: directory })
}

/// Through the identity service.
async fn remote(args: &ConnectArgs) -> Result<Connection> {
    if args.ucp.ucp_url.is_none() && args.data_dir.is_none() && !terminal::can_ask() {
        return Err(Failure::usage(
            "which registry? Give --ucp-url (or UCP_URL) with --ucp-username and UCP_PASSWORD, or --data-dir on the \
             replica's own machine",
        ));
    }
    if let Some(authorization) = args.token()? {
        return with_token(args, authorization).await;
    }
    let login = args.ucp.complete()?;
    let identity = Identity::new(&login.url, &login.tls, RETRY)?;
    let session = terminal::waiting("logging in", identity.login(&login.username, &login.password))
        .await
        .context("cannot log in")?;
    let found = replica(&identity, &session, &login, args).await;
    match found {
        Ok(api) => Ok(Connection {
            accounts: identity.api(&session),
            api,
            who: Who::Session(Box::new((identity, session, login.password))),
            _directory: None,
        }),
        Err(error) => {
            // Of no use to anybody; that it cannot be ended is no reason to hide the real error.
            let _ = identity.logout(&session).await;
            Err(error)
        }
    }
}

/// With an access token, which the registry itself takes, and no identity service.
async fn with_token(args: &ConnectArgs, authorization: Authorization) -> Result<Connection> {
    let url = match given(args.ucp.ucp_url.as_ref()) {
        Some(url) => url,
        None => terminal::ask("URL of the registry", "--ucp-url, or UCP_URL in the environment")?,
    };
    let tls = args.ucp.tls();
    let nobody = Api::new(&url, &tls, Authorization::None, RETRY)?;
    // Before the token is sent: to what is no registry it is never said.
    match nobody.get::<Value>("/v2/").await {
        Ok(_) | Err(ClientError::Credentials { .. }) => {}
        Err(ClientError::NotFound { .. }) => {
            let what = format!(
                "{} is no registry, and an access token is known to its registry alone: give the registry's own address \
                 as --ucp-url",
                nobody.host()
            );
            return Err(Failure::ending(dtr_recovery::Exit::Failed, what));
        }
        Err(error) => return Err(anyhow::Error::new(error).context("cannot reach the registry")),
    }
    let api = nobody.with_authorization(authorization.clone());
    let _: Value =
        api.get("/api/v0/meta/features").await.context("the access token is not accepted")?;
    let api = match &args.existing_replica_id {
        None => api,
        Some(wanted) => named_replica(api, wanted, &tls, authorization).await?,
    };
    Ok(Connection { accounts: api.clone(), api, who: Who::Token, _directory: None })
}

/// The replica of that id in the cluster that answers.
async fn named_replica(
    api: Api,
    wanted: &ReplicaId,
    tls: &TlsOptions,
    authorization: Authorization,
) -> Result<Api> {
    let status: Value = match api.get("/api/v0/meta/cluster_status").await {
        // Who may not ask about replicas works through the one that answers.
        Err(ClientError::Denied { .. }) => return Ok(api),
        other => other.context("cannot ask for the replicas")?,
    };
    let Some(replicas) = status["replica_address"].as_object() else { return Ok(api) };
    match replicas.get(wanted.as_str()).and_then(Value::as_str) {
        Some(_) if replicas.len() == 1 => Ok(api),
        Some(address) => Ok(Api::new(address, tls, authorization, RETRY)?),
        None => {
            let known: Vec<_> = replicas.keys().map(String::as_str).collect();
            let what = format!(
                "there is no replica {wanted} at {}; there are {}",
                api.host(),
                known.join(", ")
            );
            Err(Failure::ending(dtr_recovery::Exit::Failed, what))
        }
    }
}

/// The replica's interface, as the session's user.
async fn replica(
    identity: &Identity,
    session: &Session,
    login: &UcpLogin,
    args: &ConnectArgs,
) -> Result<Api> {
    let wanted = args.existing_replica_id.as_ref();
    // A DTR that keeps its own accounts is the identity service and the replica in one: the way that was used to log in
    // is known to work, whatever name the replica has in its own network.
    let here = identity.api(session);
    let mut own = false;
    if here.get::<Value>("/api/v0/meta/features").await.is_ok() {
        let Some(id) = wanted else { return Ok(here) };
        match here.get::<Value>("/api/v0/meta/cluster_status").await {
            // Who may not ask about replicas works through the one that answers.
            Err(ClientError::Denied { .. }) => return Ok(here),
            Ok(status) => {
                let replicas = status["replica_health"].as_object();
                own = replicas.is_some_and(|r| r.contains_key(id.as_str()));
                if own && replicas.is_some_and(|r| r.len() == 1) {
                    return Ok(here);
                }
            }
            Err(_) => {}
        }
    }
    let services = identity.services(session).await.map_err(|error| match error {
        ClientError::Denied { .. } => Failure::ending(
            dtr_recovery::Exit::Failed,
            format!(
                "{} is not an administrator at {}, and only administrators find replicas through it; name the \
                 registry's own address, or log in as an administrator",
                session.account.name,
                identity.host()
            ),
        ),
        error => anyhow::Error::new(error).context("cannot list the registered replicas"),
    })?;
    let (service, address) = choose(&services, wanted, &identity.host())?;
    // A session of the identity service goes to the identity service alone; another replica of a registry that keeps its own
    // accounts is that too.
    let bound = match own {
        true => session.clone(),
        false => identity
            .bind(session, &service.id, args.export)
            .await
            .with_context(|| format!("cannot begin a session for {}", service.name))?,
    };
    reach(service, address, &bound, login)
        .await
        .with_context(|| format!("cannot use the replica at {address}"))
}

/// The wanted replica among those registered, or the only one. What a service says that no administrator registered as a
/// registry counts for nothing, and an id that two claim is not followed.
fn choose<'a>(
    services: &'a [Service],
    wanted: Option<&ReplicaId>,
    host: &str,
) -> Result<(&'a Service, &'a str)> {
    let registries = services.iter().filter(|service| service.privileged);
    let all: Vec<_> = registries.flat_map(|s| s.replicas.iter().map(move |r| (s, r))).collect();
    let listed = || {
        let lines = all.iter().map(|(_, r)| format!("{} ({})", r.id, r.address));
        lines.collect::<Vec<_>>().join(", ")
    };
    if all.is_empty() {
        let what = format!("no DTR is registered with the identity service at {host}");
        return Err(Failure::ending(dtr_recovery::Exit::Failed, what));
    }
    let found = match wanted {
        Some(id) => {
            let mut of_id = all.iter().filter(|(_, replica)| replica.id == *id);
            let found = of_id.next().ok_or_else(|| {
                let what =
                    format!("there is no replica {id} at {host}; registered are {}", listed());
                Failure::ending(dtr_recovery::Exit::Failed, what)
            })?;
            if let Some((other, _)) = of_id.next() {
                let what = format!(
                    "two services at {host} say that replica {id} is theirs: {} and {}. Nothing was sent to either; take the \
                     wrong one's registration away",
                    found.0.name, other.name
                );
                return Err(Failure::ending(dtr_recovery::Exit::Refused, what));
            }
            found
        }
        None if all.len() == 1 => &all[0],
        None => {
            let what = "several replicas are registered; choose one with --existing-replica-id";
            return Err(Failure::usage(format!("{what}: {}", listed())));
        }
    };
    Ok((found.0, found.1.address.as_str()))
}

/// Connects to a registered replica, trusting the authority that it was registered with; one that has a certificate of a
/// public authority is trusted for that.
async fn reach(
    service: &Service,
    address: &str,
    session: &Session,
    login: &UcpLogin,
) -> Result<Api> {
    let bundle = (!service.ca_bundle.trim().is_empty()).then(|| service.ca_bundle.clone());
    let registered = TlsOptions { ca_pem: bundle.clone(), ..login.tls.clone() };
    let api = Api::new(address, &registered, session.authorization(), RETRY)?;
    let public =
        Api::new(address, &TlsOptions { ca_pem: None, ..registered }, Authorization::None, RETRY)?;
    let _: Value = match api.get("/api/v0/meta/features").await {
        Err(ClientError::NotTrusted { .. }) if bundle.is_some() => {
            let api = public.with_authorization(session.authorization());
            let _: Value = api.get("/api/v0/meta/features").await?;
            return Ok(api);
        }
        other => other?,
    };
    Ok(api)
}

impl Connection {
    /// Whether it goes through the socket of a data directory, on the replica's own machine.
    pub fn is_local(&self) -> bool {
        matches!(self.who, Who::Local)
    }

    /// Refuses what needs somebody; through the socket nobody is.
    pub fn needs_login(&self, what: &str) -> Result<()> {
        match &self.who {
            Who::Session(_) | Who::Token => Ok(()),
            Who::Local => Err(Failure::usage(format!(
                "{what} belong to an account, and through --data-dir nobody is logged in: use --ucp-url"
            ))),
        }
    }

    /// Refuses an access token: where accounts are kept, passwords alone are known.
    pub fn needs_password(&self, what: &str) -> Result<()> {
        match &self.who {
            Who::Local | Who::Session(_) => Ok(()),
            Who::Token => Err(Failure::usage(format!(
                "{what}: an access token is not enough for that; give --ucp-username and UCP_PASSWORD"
            ))),
        }
    }

    /// The password that was given for the account of this name, if it is the one that is logged in.
    pub fn password_of(&self, name: &AccountName) -> Option<&Secret> {
        match &self.who {
            Who::Session(login) if login.1.account.name == *name => Some(&login.2),
            _ => None,
        }
    }

    /// Ends the session.
    pub async fn close(self) {
        if let Who::Session(login) = &self.who
            && let Err(error) = login.0.logout(&login.1).await
        {
            tracing::debug!(%error, "the session was not ended; it ends by itself");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(replicas: &[(&str, &str)]) -> Service {
        let replicas: Vec<_> = replicas
            .iter()
            .map(|(id, address)| serde_json::json!({"id": id, "address": address}))
            .collect();
        let id = dtr_types::ServiceId::random(&dtr_types::SystemRandom);
        serde_json::from_value(
            serde_json::json!({"id": id, "privileged": true, "replicas": replicas}),
        )
        .expect("valid")
    }

    #[test]
    fn the_only_replica_needs_no_name() {
        let one = [service(&[("0123456789ab", "https://a")])];
        assert_eq!(choose(&one, None, "u").expect("one").1, "https://a");
    }

    #[test]
    fn several_are_listed() {
        let two = [service(&[("0123456789ab", "https://a"), ("ba9876543210", "https://b")])];
        let error = choose(&two, None, "u").expect_err("ambiguous").to_string();
        assert!(error.contains("--existing-replica-id") && error.contains("https://b"), "{error}");
        let id = "ba9876543210".parse().expect("an id");
        assert_eq!(choose(&two, Some(&id), "u").expect("one").1, "https://b");
        let id = "ffffffffffff".parse().expect("an id");
        let error = choose(&two, Some(&id), "u").expect_err("unknown").to_string();
        assert!(error.contains("ba9876543210"), "{error}");
        assert!(choose(&[], None, "u").is_err());
    }

    #[test]
    fn nobody_poses_as_another_replica() {
        let id: ReplicaId = "0123456789ab".parse().expect("an id");
        let honest = service(&[("0123456789ab", "https://honest")]);
        let rogue = Service { privileged: false, ..service(&[("0123456789ab", "https://rogue")]) };
        let both = [rogue.clone(), honest.clone()];
        assert_eq!(choose(&both, Some(&id), "u").expect("one").1, "https://honest");
        assert_eq!(choose(&both, None, "u").expect("one").1, "https://honest");
        assert!(choose(std::slice::from_ref(&rogue), Some(&id), "u").is_err());
        let twice = [Service { privileged: true, ..rogue }, honest];
        let error = choose(&twice, Some(&id), "u").expect_err("two").to_string();
        assert!(error.contains("two services"), "{error}");
    }

    #[test]
    fn a_folder_without_a_replica_says_so() {
        let folder = tempfile::tempdir().expect("a folder");
        let error = local(folder.path()).err().expect("nothing listens");
        assert!(error.is::<NotRunning>(), "{error:#}");
        assert!(error.to_string().contains("dtr serve"), "{error:#}");
    }
}
