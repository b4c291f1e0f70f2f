//! Which page a scrape wants (`spec: metrics §1`).

use mamba_auth::Pattern;

/// A page.
#[derive(Debug)]
pub(crate) enum Wanted {
    /// `/metrics`: objects added up.
    Aggregated,
    /// `/metrics/per-object`: a series for each object.
    PerObject,
    /// `/metrics/detailed`: the families asked for.
    Detailed(Filter),
    /// `/metrics/memory-breakdown`
    MemoryBreakdown,
}

/// What of the objects is wanted.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    families: Vec<String>,
    /// Queues and exchanges of these virtual hosts; of all if there are none.
    vhosts: Vec<String>,
    queue: Option<Pattern>,
}

/// Why there is no page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    UnknownRegistry,
    InvalidPattern,
}

impl Wanted {
    /// The page of `/metrics/REGISTRY?QUERY`; the registry is empty for `/metrics`.
    pub(super) fn parse(registry: &str, query: &str) -> Result<Self, Refused> {
        match registry {
            "" => Ok(Self::Aggregated),
            "per-object" => Ok(Self::PerObject),
            "memory-breakdown" => Ok(Self::MemoryBreakdown),
            "detailed" => Filter::parse(query).map(Self::Detailed),
            _ => Err(Refused::UnknownRegistry),
        }
    }

    /// As identity_info says it.
    pub(super) const fn endpoint(&self) -> &'static str {
        match self {
            Self::Aggregated => "aggregated",
            Self::PerObject => "per-object",
            Self::Detailed(_) => "detailed",
            Self::MemoryBreakdown => "memory-breakdown",
        }
    }
}

impl Filter {
    fn parse(query: &str) -> Result<Self, Refused> {
        let mut filter = Self::default();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "family" => filter.families.push(value.into_owned()),
                "vhost" => filter.vhosts.push(value.into_owned()),
                "queue" if !value.is_empty() => {
                    let pattern = Pattern::new(&value).map_err(|_| Refused::InvalidPattern)?;
                    filter.queue = Some(pattern);
                }
                _ => {}
            }
        }
        Ok(filter)
    }

    /// Whether this family is asked for.
    pub(super) fn has(&self, family: &str) -> bool {
        self.families.iter().any(|wanted| wanted == family)
    }

    pub(super) fn wants_vhost(&self, vhost: &str) -> bool {
        self.vhosts.is_empty() || self.vhosts.iter().any(|wanted| wanted == vhost)
    }

    pub(super) fn wants_queue(&self, queue: &str) -> bool {
        self.queue
            .as_ref()
            .is_none_or(|pattern| pattern.matches(queue))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries() {
        assert!(matches!(Wanted::parse("", "x=y"), Ok(Wanted::Aggregated)));
        assert!(matches!(
            Wanted::parse("per-object", ""),
            Ok(Wanted::PerObject)
        ));
        assert_eq!(
            Wanted::parse("other", "").unwrap_err(),
            Refused::UnknownRegistry
        );
        assert_eq!(
            Wanted::parse("detailed", "queue=(").unwrap_err(),
            Refused::InvalidPattern
        );
    }

    #[test]
    fn filters() {
        let query = "family=queue_metrics&family=vhost_status&vhost=%2F&vhost=a+b&queue=^x.*y$";
        let Ok(Wanted::Detailed(filter)) = Wanted::parse("detailed", query) else {
            panic!("refused");
        };
        assert!(filter.has("queue_metrics") && filter.has("vhost_status"));
        assert!(!filter.has("queue"));
        assert!(filter.wants_vhost("/") && filter.wants_vhost("a b") && !filter.wants_vhost("c"));
        assert!(filter.wants_queue("x-y") && !filter.wants_queue("z-x-y"));
        let everything = Filter::default();
        assert!(everything.wants_vhost("c") && everything.wants_queue("q"));
    }
}
