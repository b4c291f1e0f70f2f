//! Definitions, whole and per virtual host.

use crate::{
    answer::{Answer, Outcome, Refusal},
    request::Request,
};

/// The virtual host of the path or of the query; none means all.
fn vhost<'a>(request: &'a Request<'_>) -> Option<&'a str> {
    let in_path = Some(request.name("vhost")).filter(|name| !name.is_empty());
    in_path.or_else(|| request.query.get("vhost"))
}

pub(crate) fn export(request: &Request<'_>) -> Outcome {
    let text = request.broker().export_definitions(vhost(request))?;
    let file = request
        .query
        .get("download")
        .or_else(|| request.query.get("file"));
    Ok(Answer::Text(text, file.map(str::to_owned)))
}

/// What is refused is refused as a whole.
pub(crate) fn import(request: &Request<'_>) -> Outcome {
    let (vhost, now_ms) = (vhost(request), request.now.unix_ms);
    if vhost.is_some_and(|name| request.broker().vhost(name).is_none()) {
        return Err(Refusal::no_vhost());
    }
    let imported = request
        .broker()
        .import_definitions(&request.body, vhost, now_ms)
        .map_err(|refused| Refusal::bad(refused.to_string()))?;
    tracing::info!(user = %request.user().name, vhost, objects = imported.objects, "definitions imported over the management API");
    Ok(Answer::Done)
}
