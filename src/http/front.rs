//! What every request passes before the URL table, and every answer after it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::SystemTime;

use hyper_util::service::TowerToHyperService;
use warp::filters::BoxedFilter;
use warp::http::{HeaderName, HeaderValue, Method, Request, header};
use warp::hyper::body::Incoming;
use warp::hyper::service::Service;

use crate::auth::Authenticator;

use super::ClientAddress;
use super::cross_origin::{self, CrossOrigin};
use super::detached::detached;
use super::error::ApiError;
use super::metrics::Code;
use super::route::Response;
use super::sender::{Bounds, Sender};
use super::{credentials, health};
use crate::metrics::TurnedAway;

const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// What is asked of requests before anything else.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    pub cross_origin: CrossOrigin,
    /// The names that this server is called by, without ports; empty: any.
    pub hosts: Vec<String>,
}

/// The way in. Cheap to clone.
#[derive(Clone)]
pub struct Front(Arc<Inner>);

struct Inner {
    settings: Settings,
    authenticator: Arc<Authenticator>,
    bounds: Arc<Bounds>,
    turned_away: TurnedAway,
    routes: BoxedFilter<(Response,)>,
}

impl Front {
    pub fn new(
        settings: Settings,
        authenticator: Arc<Authenticator>,
        bounds: Arc<Bounds>,
        turned_away: TurnedAway,
        routes: BoxedFilter<(Response,)>,
    ) -> Self {
        Self(Arc::new(Inner { settings, authenticator, bounds, turned_away, routes }))
    }

    /// Answers one request.
    ///
    /// # Errors
    /// None: what is wrong with a request is an answer.
    pub async fn answer(
        self,
        request: Request<Incoming>,
        client: ClientAddress,
    ) -> Result<Response, Infallible> {
        let front = &*self.0;
        let cross_origin = &front.settings.cross_origin;
        let told = cross_origin.told(request.headers());
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        let mut response = match front.admit(request, client).await {
            Ok(request) => {
                let routes = TowerToHyperService::new(warp::service(front.routes.clone()));
                routes.call(request).await?
            }
            Err(early) => {
                if let Some(Code(code)) = early.extensions().get() {
                    front.turned_away.count(code);
                }
                *early
            }
        };
        cross_origin.tell(told, &mut response);
        set_common_headers(&mut response, is_read);
        Ok(response)
    }
}

impl Inner {
    /// The request as handlers see it, or the answer that it gets at once.
    async fn admit(
        &self,
        request: Request<Incoming>,
        client: ClientAddress,
    ) -> Result<Request<Incoming>, Box<Response>> {
        let refused = |error: ApiError| Box::new(error.into_response());
        self.check_host(&request).map_err(refused)?;
        if !health::is_health(request.uri().path()) {
            self.bounds.take_request(client).map_err(refused)?;
        }
        if let Some(answer) = self.settings.cross_origin.preflight(&request) {
            return Err(answer.map_or_else(refused, Box::new));
        }
        let given = credentials::given(&request);
        self.settings.cross_origin.check(&request, given.by_cookie).map_err(refused)?;
        let caller = self.authenticator.identify(&given.credentials, SystemTime::now()).await;
        let mut request = detached(request);
        request.extensions_mut().insert(Sender::new(caller, client, self.bounds.clone()));
        Ok(request)
    }

    /// Against pages that have their own name point to this server (DNS rebinding).
    fn check_host(&self, request: &Request<Incoming>) -> Result<(), ApiError> {
        let hosts = &self.settings.hosts;
        // Those who look after the server may call it by its number.
        if hosts.is_empty() || health::is_health(request.uri().path()) {
            return Ok(());
        }
        let given = cross_origin::host(request).unwrap_or_default();
        let name = match given.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => given,
        };
        if hosts.iter().any(|host| host.eq_ignore_ascii_case(name)) {
            Ok(())
        } else {
            Err(ApiError::UnknownHost)
        }
    }
}

/// `is_read`: of what else was asked no browser keeps the answer, or shows it as a page.
fn set_common_headers(response: &mut Response, is_read: bool) {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    if is_read {
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        // What a handler says about caching stands; else nothing of a document is kept on the way.
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    }
}
