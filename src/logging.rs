//! Log lines on standard error, for people or as JSON.

use std::{
    io::{self, IsTerminal},
    sync::Arc,
};

use mamba_server::control::SetLogLevel;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Layer, filter::Targets, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

use crate::{
    audit::AuditFile,
    config::{LogFormat, Logging},
};

/// The filter for `info` or `info,mamba_store=debug`; `None` when a part of it is not a level.
pub(crate) fn targets(level: &str) -> Option<Targets> {
    // An empty word would parse as a level.
    let parse = |word: &str| {
        let word = word.trim();
        if word.is_empty() {
            None
        } else {
            word.parse::<LevelFilter>().ok()
        }
    };
    level
        .split(',')
        .try_fold(Targets::new(), |targets, part| match part.split_once('=') {
            None => Some(targets.with_default(parse(part)?)),
            Some((target, level)) => Some(targets.with_target(target.trim(), parse(level)?)),
        })
}

/// The filter for what somebody asks for at run time: as above, and RabbitMQ's words for levels.
fn asked(level: &str) -> Result<Targets, String> {
    let words = match level {
        "none" => "off",
        "notice" => "info",
        "warning" => "warn",
        "critical" | "alert" | "emergency" => "error",
        other => other,
    };
    targets(words).ok_or_else(|| {
        format!("level {level} is not supported. Try one of debug, info, warning, error, critical, none, or a level per part: info,mamba_store=debug")
    })
}

/// What the log is steered by while it runs.
pub(crate) struct Logger {
    /// Changes the level.
    pub(crate) set_level: SetLogLevel,
    /// The audit log's file, if it has one.
    pub(crate) audit: Option<Arc<AuditFile>>,
}

/// Starts logging, for the rest of the process; panics are logged too.
///
/// # Errors
/// What keeps that file from being opened; then only that is missing.
pub(crate) fn start(logging: &Logging) -> io::Result<Logger> {
    let path = &logging.audit_file;
    let opened = if path.as_os_str().is_empty() {
        Ok(None)
    } else {
        AuditFile::open(path, logging.audit_file_size.0, logging.audit_files_max)
            .map(|file| Some(Arc::new(file)))
    };
    let audit = opened.as_ref().ok().cloned().flatten().map(|file| {
        let targets = Targets::new().with_target(mamba_broker::audit::TARGET, LevelFilter::TRACE);
        tracing_subscriber::fmt::layer()
            .with_writer(file)
            .with_ansi(false)
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .with_filter(targets)
    });
    let targets =
        targets(&logging.level).unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let (filter, handle) = reload::Layer::new(targets);
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let lines = match logging.format {
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .boxed(),
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).boxed(),
    };
    // An error means that logging was started before, which is just as good.
    let _ = tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .with(audit)
        .try_init();
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let text = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let text = text.unwrap_or("no text");
        let place = panic
            .location()
            .map_or_else(|| "unknown".to_owned(), ToString::to_string);
        tracing::error!(
            place,
            "a part of the broker failed, please report this: {text}"
        );
    }));
    let set_level: SetLogLevel = Arc::new(move |level| {
        let targets = asked(level)?;
        handle.reload(targets).map_err(|error| error.to_string())?;
        tracing::info!(level, "log level changed, until the next start");
        Ok(())
    });
    opened.map(|audit| Logger { set_level, audit })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_by_rabbitmqs_words() {
        for good in ["none", "critical", "warning", "info,mamba_store=debug"] {
            assert!(asked(good).is_ok(), "{good}");
        }
        assert!(asked("verbose").unwrap_err().contains("verbose"));
    }

    #[test]
    fn levels() {
        for good in [
            "off",
            "error",
            "warn",
            "info",
            "debug",
            "trace",
            "INFO",
            "info,mamba_store=debug",
            "mamba_store = trace",
        ] {
            assert!(targets(good).is_some(), "{good}");
        }
        for bad in ["", "verbose", "info,", "mamba_store=loud", "info;debug"] {
            assert!(targets(bad).is_none(), "{bad}");
        }
    }
}
