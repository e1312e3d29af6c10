//! Requests, by the address as the URL table has it.

use std::sync::OnceLock;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::{Registry, Unit};

use super::{Histogram, Label, TIMES};

/// Methods are told apart, but callers may invent some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
    Other,
}

impl Method {
    const COUNT: usize = Self::Other as usize + 1;

    fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::Other => "other",
        }
    }
}

const STATUS_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Where requests are counted.
#[derive(Debug, Clone)]
pub struct Requests {
    answered: Family<[Label; 3], Counter>,
    time: Family<[Label; 1], Histogram, fn() -> Histogram>,
    problems: Family<[Label; 2], Counter>,
}

impl Requests {
    pub(super) fn registered(registry: &mut Registry) -> Self {
        let requests = Self {
            answered: Family::default(),
            time: Family::new_with_constructor(|| Histogram::of_times(TIMES)),
            problems: Family::default(),
        };
        let help = "Requests that were answered, by address, method and class of status";
        registry.register("http_requests", help, requests.answered.clone());
        let help = "From a request's headers to the headers of its answer, by address";
        registry.register_with_unit("http_request_duration", help, Unit::Seconds, requests.time.clone());
        let help = "Requests that were refused, by address and the code of the problem";
        registry.register("http_problems", help, requests.problems.clone());
        requests
    }

    /// `template`: the address as the URL table has it.
    pub fn route(&self, template: &'static str) -> Route {
        Route { template, of: self.clone(), answered: Default::default(), time: OnceLock::new() }
    }
}

/// What is counted of one address. Each series begins with its first request: most of them never come.
#[derive(Debug)]
pub struct Route {
    template: &'static str,
    of: Requests,
    answered: [[OnceLock<Counter>; STATUS_CLASSES.len()]; Method::COUNT],
    time: OnceLock<Histogram>,
}

impl Route {
    /// `problem`: the code of the answer, if it was one.
    pub fn answered(&self, method: Method, status: u16, problem: Option<&'static str>, time: Duration) {
        let route = ("route", self.template);
        let class = usize::from(status / 100).clamp(1, STATUS_CLASSES.len()) - 1;
        let answered = self.answered[method as usize][class].get_or_init(|| {
            let labels = [route, ("method", method.as_str()), ("status", STATUS_CLASSES[class])];
            self.of.answered.get_or_create_owned(&labels)
        });
        answered.inc();
        self.time.get_or_init(|| self.of.time.get_or_create_owned(&[route])).observe_time(time);
        if let Some(code) = problem {
            // Looked up each time: it is the rare case, and there are more codes than addresses.
            self.of.problems.get_or_create(&[route, ("code", code)]).inc();
        }
    }
}
