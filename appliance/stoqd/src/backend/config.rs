//! The configuration in force, reading it again, and how much is logged.

use std::sync::Arc;
use std::time::Duration;

use stoq_admin::ApiError;
use stoq_admin::api::{
    ConfigChange, ConfigDiff, ConfigDiffed, ConfigExplain, ConfigExplained, ConfigReload,
    ConfigReloaded, ConfigShow, ConfigShown, LogLevel, LogLevelGet, LogLevelSet, LogLevelWasSet,
};
use stoq_config::Config;

use super::Admin;

fn read_config(admin: &Admin) -> Result<Config, ApiError> {
    let Some(file) = &admin.0.config_file else {
        return Err(ApiError::conflict(
            "no-file",
            "stoqd runs without a configuration file",
            "write one (stoqd default-config) and start stoqd with --config FILE",
        ));
    };
    Config::read(file).map_err(|error| {
        ApiError::usage("bad-config", error.to_string(), "correct the file and try again")
    })
}

/// Applies what can be applied while running
async fn apply(admin: &Admin, next: &Config) -> Result<ConfigReloaded, ApiError> {
    let _changing = admin.0.changing.lock().await;
    let current = admin.0.config.load_full();
    let (applied, pending): (Vec<_>, Vec<_>) =
        current.diff(next).into_iter().partition(|change| change.reloadable);
    let merged = crate::reload::merge(&current, next);
    crate::pins::check(&merged, admin.0.identities().identity.as_ref()).map_err(|problem| {
        let remedy = "`stoqctl node show` prints the pins of the chain in use; correct [trust] and try again";
        ApiError::conflict(problem.code(), problem.to_string(), remedy)
    })?;
    crate::reload::services(&admin.0, &current, &merged).await?;
    let roots = crate::copy::Roots::new(merged.copy.roots.clone())
        .map_err(|error| ApiError::usage("bad-config", error.to_string(), "correct copy.roots"))?;
    admin.0.set_roots(roots);
    if merged.log.filter != current.log.filter {
        admin
            .0
            .logging
            .configure(&merged.log.filter)
            .map_err(|error| ApiError::usage("bad-config", error, "correct log.filter"))?;
    }
    admin.0.config.store(Arc::new(merged));
    admin.0.load_peers(&admin.0.config.load());
    let epoch = admin.0.publish_snapshot();
    let shown =
        |changes: Vec<stoq_config::Change>| changes.into_iter().map(ConfigChange::from).collect();
    Ok(ConfigReloaded { applied: shown(applied), pending: shown(pending), epoch })
}

/// Reads the file again, as SIGHUP asks for
pub async fn reload(admin: &Admin) -> Result<ConfigReloaded, ApiError> {
    let next = read_config(admin)?;
    apply(admin, &next).await
}

pub async fn show(admin: &Admin, _request: ConfigShow) -> Result<ConfigShown, ApiError> {
    Ok(ConfigShown::new(admin.0.config_file.clone(), &admin.0.config.load()))
}

pub async fn diff(admin: &Admin, request: ConfigDiff) -> Result<ConfigDiffed, ApiError> {
    let next = match request.text {
        None => read_config(admin)?,
        Some(text) => Config::parse("request", &text).map_err(|error| {
            ApiError::usage("bad-config", error.to_string(), "correct the file and try again")
        })?,
    };
    let changes = admin.0.config.load().diff(&next);
    Ok(ConfigDiffed { changes: changes.into_iter().map(ConfigChange::from).collect() })
}

pub async fn reload_as_asked(
    admin: &Admin,
    _request: ConfigReload,
) -> Result<ConfigReloaded, ApiError> {
    reload(admin).await
}

pub async fn explain(_admin: &Admin, request: ConfigExplain) -> Result<ConfigExplained, ApiError> {
    let text = Config::explain(&request.key)
        .ok_or_else(|| ApiError::not_found("key", &request.key, "stoqctl config show"))?;
    Ok(ConfigExplained { key: request.key, text })
}

pub async fn level(admin: &Admin, _request: LogLevelGet) -> Result<LogLevel, ApiError> {
    let (level, reverts_at) = admin.0.logging.active();
    Ok(LogLevel { level, reverts_at })
}

pub async fn set_level(admin: &Admin, request: LogLevelSet) -> Result<LogLevelWasSet, ApiError> {
    let (previous, _) = admin.0.logging.active();
    let lasting = request.for_seconds.map(Duration::from_secs);
    let reverts_at = admin.0.logging.set(&request.level, lasting).map_err(|error| {
        ApiError::usage("bad-level", error, "use error, warn, info, debug, trace or target=level")
    })?;
    Ok(LogLevelWasSet { level: request.level, previous, reverts_at })
}
