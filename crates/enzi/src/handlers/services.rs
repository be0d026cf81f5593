//! Registered services: the registrations, and what a registered DTR asks for its users.

use dtr_catalog::records::Service;
use dtr_identity::{
    Identity as _, IdentityError, ServiceForm,
    wire::{
        AuthenticateAnswer, AuthenticateForm, BindForm, LoginAnswer, PrincipalView, ServiceList,
        SessionForm,
    },
};
use http::StatusCode;

use super::Answer;
use crate::{
    context::{Context, json, no_content, ok},
    error::ApiError,
};

fn list_of(services: Vec<Service>) -> Answer {
    ok(&ServiceList { resource_count: services.len() as u64, services })
}

pub(super) async fn list(context: Context) -> Answer {
    list_of(context.identity().services().await?)
}

pub(super) async fn list_of_account(context: Context) -> Answer {
    let owner = &context.account()?.id;
    let mut services = context.identity().services().await?;
    services.retain(|service| service.owner == *owner);
    list_of(services)
}

pub(super) async fn create(context: Context) -> Answer {
    let form: ServiceForm = context.form()?;
    let owner = &context.account()?.id;
    let service = context.identity().register_service(&context.caller.actor(), owner, form).await?;
    json(StatusCode::CREATED, &service)
}

pub(super) async fn get(context: Context) -> Answer {
    ok(&context.service().await?)
}

pub(super) async fn update(context: Context) -> Answer {
    let form: ServiceForm = context.form()?;
    if form.privileged.is_some() && !context.caller.is_admin() {
        return Err(ApiError::not_authorized());
    }
    let service = context.service().await?;
    ok(&context.identity().update_service(&context.caller.actor(), &service.id, form).await?)
}

pub(super) async fn delete(context: Context) -> Answer {
    if let Ok(service) = context.service().await {
        context.identity().delete_service(&context.caller.actor(), &service.id).await?;
    }
    no_content()
}

/// 404 for wrong credentials: 401 is for the service itself.
fn wrong_credentials() -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        "NO_SUCH_USER",
        IdentityError::WrongCredentials.to_string(),
    )
}

pub(super) async fn authenticate(context: Context) -> Answer {
    let form: AuthenticateForm = context.form()?;
    let identity = context.identity();
    // Addresses that services tell are counted apart from each other's by what the service says; one that says nothing
    // shares its own address among all its users, and only slows them down.
    let from = form.from.or(context.from);
    let result = if form.session {
        let service = &context.calling_service()?.id;
        let login = identity.login_for(service, &form.username, &form.password, from).await;
        login.map(|login| AuthenticateAnswer {
            principal: PrincipalView::from(&*login.principal),
            session_token: Some(login.token),
            expires_at: Some(login.expires_at),
        })
    } else {
        identity.authenticate_from(&form.username, &form.password, from).await.map(|principal| {
            AuthenticateAnswer {
                principal: PrincipalView::from(&*principal),
                session_token: None,
                expires_at: None,
            }
        })
    };
    match result {
        Ok(answer) => ok(&answer),
        Err(IdentityError::WrongCredentials) => Err(wrong_credentials()),
        Err(error) => Err(error.into()),
    }
}

/// A session for a registry, made out of that of whoever asks.
pub(super) async fn bind(context: Context) -> Answer {
    let form: BindForm = context.optional_form()?;
    let service = context.service().await?;
    let Some(session) = context.session() else {
        return Err(ApiError::invalid("log in first: this is made out of a session"));
    };
    // Others may say of themselves what they like.
    if !service.privileged {
        return Err(ApiError::not_authorized());
    }
    let login = context.identity().bind_session(session, &service.id, form.export).await?;
    let login = login.ok_or_else(|| ApiError::not_authenticated("the session is over"))?;
    let account = login.principal.account.clone();
    let answer = LoginAnswer { session_token: login.token, account, expires_at: login.expires_at };
    json(StatusCode::CREATED, &answer)
}

/// The accounts, to a registry that an administrator lets fetch them for a backup.
pub(super) async fn export(context: Context) -> Answer {
    let form: SessionForm = context.form()?;
    let service = &context.calling_service()?.id;
    let token = form.token.ok_or_else(|| ApiError::invalid("send the session's token"))?;
    match context.identity().exporter(service, &token).await? {
        Some(principal) if principal.account.is_admin => super::transfer::export(&context).await,
        _ => Err(ApiError::not_authorized()),
    }
}

pub(super) async fn session(context: Context) -> Answer {
    let form: SessionForm = context.form()?;
    let (identity, service) = (context.identity(), &context.calling_service()?.id);
    let principal = match (&form.token, &form.hash) {
        (Some(token), _) => identity.session_for(service, token).await?,
        (None, Some(hash)) => match identity.session_account_for(service, hash).await? {
            Some(account) => identity.principal(&account).await?,
            None => None,
        },
        (None, None) => return Err(ApiError::invalid("send the session's token, or its hash")),
    };
    match principal {
        Some(principal) => ok(&PrincipalView::from(&*principal)),
        None => Err(ApiError::new(StatusCode::NOT_FOUND, "NO_SUCH_SESSION", "the session is over")),
    }
}

pub(super) async fn logout(context: Context) -> Answer {
    let form: SessionForm = context.form()?;
    let token = form.token.ok_or_else(|| ApiError::invalid("send the session's token"))?;
    context.identity().logout(&token).await?;
    ok(&serde_json::json!({}))
}

pub(super) async fn principal(context: Context) -> Answer {
    let text = context.param("id");
    let missing = || ApiError::missing("user", text);
    let id = text.parse().map_err(|_| missing())?;
    match context.identity().principal(&id).await? {
        Some(principal) => ok(&PrincipalView::from(&*principal)),
        None => Err(missing()),
    }
}
