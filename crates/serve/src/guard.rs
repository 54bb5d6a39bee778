//! Who may ask: the API key, the name that the server was called by, and the web page that calls.

use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use subtle::ConstantTimeEq;

use crate::error::ApiError;
use crate::page;

/// What requests must bring.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// The key, where one is wanted.
    pub api_key: Option<String>,
    /// Names of this server besides `localhost` and addresses in numbers. A web page whose name was made to mean this machine
    /// (DNS rebinding) calls by another one.
    pub hosts: Vec<String>,
    /// Origins of web pages that may call; `*` is all of them. Empty: none but the server's own.
    pub origins: Vec<String>,
}

impl Access {
    /// Checks a request by its headers.
    pub(crate) fn check(&self, method: &Method, path: &str, headers: &HeaderMap) -> Result<(), ApiError> {
        let host = text(headers, header::HOST).ok_or_else(|| ApiError::bad("the request has no Host header"))?;
        if !self.is_ours(host) {
            return Err(ApiError::new(
                StatusCode::FORBIDDEN,
                format!(
                    "this server is not called {host:?}: call it by its address or localhost, or start it with --host"
                ),
            ));
        }
        if let Some(origin) = text(headers, header::ORIGIN) {
            let own = origin.split_once("://").is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host));
            if !own && self.allowed(origin).is_none() {
                return Err(ApiError::new(
                    StatusCode::FORBIDDEN,
                    format!("web pages of {origin:?} may not call this server: start it with --cors"),
                ));
            }
        }
        // Whether it lives is no secret, nor is the page, which asks for the key; and a preflight comes without it.
        let open = path == "/health" || page::is_page(path) || *method == Method::OPTIONS;
        if open || self.has_key(headers) {
            return Ok(());
        }
        Err(ApiError::new(StatusCode::UNAUTHORIZED, "the API key is missing or wrong"))
    }

    /// Compares in a time that does not depend on how much of the key is right.
    fn has_key(&self, headers: &HeaderMap) -> bool {
        let Some(key) = &self.api_key else { return true };
        let bearer = text(headers, header::AUTHORIZATION).and_then(|value| {
            let (scheme, key) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(key)
        });
        let given = bearer.or_else(|| headers.get("x-api-key").and_then(|value| value.to_str().ok()));
        given.is_some_and(|given| given.as_bytes().ct_eq(key.as_bytes()).into())
    }

    fn is_ours(&self, host: &str) -> bool {
        let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, _)) => return address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => host.rsplit_once(':').map_or(host, |(name, _)| name),
        };
        let numbers = name.parse::<std::net::Ipv4Addr>().is_ok();
        let named = ["localhost"].into_iter().chain(self.hosts.iter().map(String::as_str));
        numbers || named.into_iter().any(|own| name.eq_ignore_ascii_case(own))
    }

    /// The value of `Access-Control-Allow-Origin` for a page's origin.
    fn allowed(&self, origin: &str) -> Option<HeaderValue> {
        let listed = self.origins.iter().find(|listed| *listed == "*" || listed.eq_ignore_ascii_case(origin))?;
        HeaderValue::from_str(if listed == "*" { "*" } else { origin }).ok()
    }

    /// Lets a web page that may call read the response, and send the headers that it asked for: clients in browsers send some of
    /// their own.
    pub(crate) fn share(&self, origin: Option<&HeaderValue>, asked: Option<HeaderValue>, headers: &mut HeaderMap) {
        let origin = origin.and_then(|origin| origin.to_str().ok()).and_then(|origin| self.allowed(origin));
        let Some(origin) = origin else { return };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::VARY, HeaderValue::from_static("Origin"));
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, OPTIONS"));
        if let Some(asked) = asked {
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked);
        }
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(access: &Access, path: &str, given: &[(&'static str, &str)]) -> u16 {
        let value = |value: &str| HeaderValue::from_str(value).expect("a value");
        let headers: HeaderMap =
            given.iter().map(|(name, text)| (header::HeaderName::from_static(name), value(text))).collect();
        access.check(&Method::POST, path, &headers).map_or_else(|error| error.status.as_u16(), |()| 200)
    }

    #[test]
    fn names_of_others_are_refused() {
        let access = Access { hosts: vec!["my.box".into()], ..Access::default() };
        for (host, status) in [
            ("localhost:8000", 200),
            ("127.0.0.1:8000", 200),
            ("127.0.0.1", 200),
            ("[::1]:8000", 200),
            ("192.168.1.7:8000", 200),
            ("my.box:8000", 200),
            ("MY.BOX", 200),
            ("evil.example:8000", 403),
            ("localhost.evil.example", 403),
            ("127.0.0.1.evil.example:80", 403),
            ("[evil]:80", 403),
        ] {
            assert_eq!(check(&access, "/v1/models", &[("host", host)]), status, "{host}");
        }
        assert_eq!(check(&access, "/v1/models", &[]), 400);
    }

    #[test]
    fn web_pages_call_only_where_they_may() {
        let page =
            |access: &Access, origin| check(access, "/v1/models", &[("host", "localhost:1"), ("origin", origin)]);
        let closed = Access::default();
        assert_eq!(page(&closed, "http://localhost:1"), 200);
        assert_eq!([page(&closed, "https://a.example"), page(&closed, "null")], [403, 403]);
        let one = Access { origins: vec!["https://a.example".into()], ..Access::default() };
        assert_eq!([page(&one, "https://a.example"), page(&one, "https://b.example")], [200, 403]);
        let all = Access { origins: vec!["*".into()], ..Access::default() };
        assert_eq!(page(&all, "https://b.example"), 200);
        let mut headers = HeaderMap::new();
        closed.share(Some(&HeaderValue::from_static("https://a.example")), None, &mut headers);
        assert!(headers.is_empty(), "no page may read by default");
        let asked = HeaderValue::from_static("authorization, x-stainless-os");
        one.share(Some(&HeaderValue::from_static("https://a.example")), Some(asked.clone()), &mut headers);
        assert_eq!(headers["access-control-allow-origin"], "https://a.example");
        assert_eq!(headers["access-control-allow-headers"], asked);
    }

    #[test]
    fn the_key_is_wanted_whole() {
        let access = Access { api_key: Some("secret".into()), ..Access::default() };
        let with = |name, value| check(&access, "/v1/models", &[("host", "localhost"), (name, value)]);
        assert_eq!([with("authorization", "Bearer secret"), with("authorization", "bearer secret")], [200, 200]);
        assert_eq!(with("x-api-key", "secret"), 200);
        for wrong in ["Bearer secre", "Bearer secrets", "Bearer ", "secret", "Basic secret"] {
            assert_eq!(with("authorization", wrong), 401, "{wrong}");
        }
        assert_eq!(check(&access, "/v1/models", &[("host", "localhost")]), 401);
        for (path, status) in
            [("/health", 200), ("/", 200), ("/page/app.js", 200), ("/live", 401), ("/page/../live", 401)]
        {
            assert_eq!(check(&access, path, &[("host", "localhost")]), status, "{path}");
        }
    }
}
