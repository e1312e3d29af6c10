//! Where a request says who sends it: a header, a cookie, or, where an event stream is asked for, its address.

use warp::http::{HeaderMap, Request, header};

use crate::auth::Credentials;

/// The cookie that holds a token.
pub const COOKIE: &str = "token";
const TICKET: &str = "ticket=";

/// What a request says of its caller, and how it came to say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    pub credentials: Credentials,
    /// A browser sends cookies along whoever had it make the request.
    pub by_cookie: bool,
}

/// The header counts before a ticket, which counts before the cookie.
pub fn given<B>(request: &Request<B>) -> Given {
    let explicit = |credentials| Given { credentials, by_cookie: false };
    let mut headers = request.headers().get_all(header::AUTHORIZATION).iter();
    if let Some(header) = headers.next() {
        if headers.next().is_some() {
            return explicit(Credentials::Unusable("there are two `Authorization` headers"));
        }
        let scheme_and_token = header.to_str().ok().and_then(|text| text.trim().split_once(' '));
        return explicit(match scheme_and_token {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
                Credentials::Token(token.trim().to_owned().into())
            }
            _ => Credentials::Unusable("the `Authorization` header must be `Bearer` and a token"),
        });
    }
    if let Some(ticket) = ticket(request) {
        return explicit(Credentials::Ticket(ticket.to_owned().into()));
    }
    match cookie(request.headers()) {
        Some(token) => Given { credentials: Credentials::Token(token.to_owned().into()), by_cookie: true },
        None => explicit(Credentials::None),
    }
}

fn ticket<B>(request: &Request<B>) -> Option<&str> {
    let path = request.uri().path();
    if path != "/events" && !path.ends_with("/events") {
        return None;
    }
    request.uri().query()?.split('&').find_map(|parameter| parameter.strip_prefix(TICKET))
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|cookies| cookies.to_str().ok());
    let mut pairs =
        cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE).map(|(_, value)| value.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given_by(path: &str, headers: &[(&str, &str)]) -> Given {
        let mut request = Request::get(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        given(&request.body(()).expect("a request"))
    }

    #[test]
    fn a_token_comes_in_a_header_or_in_a_cookie() {
        let token = |text: &str| Credentials::Token(text.to_owned().into());
        let by_header = given_by("/docs/a", &[("authorization", "bearer  abc "), ("cookie", "token=xyz")]);
        assert_eq!(by_header, Given { credentials: token("abc"), by_cookie: false });
        let by_cookie = given_by("/docs/a", &[("cookie", "a=b; token=xyz; mytoken=no")]);
        assert_eq!(by_cookie, Given { credentials: token("xyz"), by_cookie: true });
        assert_eq!(given_by("/docs/a?token=abc", &[]).credentials, Credentials::None);
    }

    #[test]
    fn what_is_no_bearer_token_is_no_credential() {
        for value in ["Basic abc", "Bearer", "abc", "", "Bearer\tabc"] {
            let given = given_by("/docs/a", &[("authorization", value), ("cookie", "token=xyz")]);
            assert!(matches!(given.credentials, Credentials::Unusable(_)), "{value:?}");
        }
        let twice = [("authorization", "Bearer a"), ("authorization", "Bearer b")];
        assert!(matches!(given_by("/docs/a", &twice).credentials, Credentials::Unusable(_)));
    }

    #[test]
    fn credentials_are_not_shown_by_whoever_shows_what_holds_them() {
        let token = given_by("/docs/a", &[("authorization", "Bearer abcxyz")]);
        let cookie = given_by("/docs/a", &[("cookie", "token=abcxyz")]);
        let ticket = given_by("/events?ticket=abcxyz", &[]);
        for given in [token, cookie, ticket] {
            assert!(!matches!(given.credentials, Credentials::None | Credentials::Unusable(_)));
            assert!(!format!("{given:?}").contains("abcxyz"));
        }
    }

    #[test]
    fn a_ticket_is_taken_for_event_streams_only() {
        let ticket = Credentials::Ticket("abc".to_owned().into());
        assert_eq!(given_by("/docs/a/events?client_id=x&ticket=abc", &[]).credentials, ticket);
        assert_eq!(given_by("/events?doc=a&ticket=abc", &[("cookie", "token=x")]).credentials, ticket);
        assert_eq!(given_by("/docs/a/state?ticket=abc", &[]).credentials, Credentials::None);
    }
}
