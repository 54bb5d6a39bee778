//! The page at `/`: its files, built in, under headers that let it load and call nothing but this server.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use crate::error::{Api, ApiError};

/// What the page may do: its own scripts and styles, calls to this server, and no text that becomes HTML or a script (`map`
/// names the one that draws in a thread of its own).
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types map";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// A file, by its path, with its type.
type File = (&'static str, &'static str, &'static str);

macro_rules! files {
    ($($name:literal $kind:ident),* $(,)?) => {
        [$((concat!("/page/", $name), $kind, include_str!(concat!("../page/", $name)))),*]
    };
}

const INDEX: File = ("/", HTML, include_str!("../page/index.html"));
const FILES: &[File] = &files![
    "style.css" CSS,
    "machine.css" CSS,
    "theme.js" JS,
    "app.js" JS,
    "api.js" JS,
    "chat.js" JS,
    "code.js" JS,
    "dom.js" JS,
    "experts.js" JS,
    "kept.js" JS,
    "machine.js" JS,
    "map.js" JS,
    "graphics.js" JS,
    "markdown.js" JS,
    "settings.js" JS,
    "steps.js" JS,
    "turns.js" JS,
    "icon.svg" SVG,
];

fn file(path: &str) -> Option<&'static File> {
    if path == INDEX.0 { Some(&INDEX) } else { FILES.iter().find(|file| file.0 == path) }
}

/// Whether the page is made of this.
pub(crate) fn is_page(path: &str) -> bool {
    file(path).is_some()
}

/// `GET /` and `GET /page/{file}`.
pub(crate) async fn show(request: Request) -> Response<Body> {
    let path = request.uri().path();
    let Some((_, kind, text)) = file(path) else {
        return ApiError::new(StatusCode::NOT_FOUND, format!("there is no {path:?} here")).response(Api::OpenAi);
    };
    let mut response = Response::new(Body::from(*text));
    set_headers(response.headers_mut(), kind);
    response
}

fn set_headers(headers: &mut HeaderMap, kind: &'static str) {
    let set: [(HeaderName, &str); 6] = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        // A newer program may answer under the same address.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    for (name, value) in set {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_that_the_page_names_is_there() {
        let texts = FILES.iter().chain([&INDEX]).filter(|file| file.1 != SVG);
        let mut named = 0;
        for (of, kind, text) in texts {
            // In markup `"/page/style.css"`, in scripts `from "./dom.js"`.
            let before = if *kind == JS { "from \"./" } else { "\"/page/" };
            for rest in text.split(before).skip(1) {
                let name = rest.split('"').next().unwrap_or_default();
                assert!(is_page(&format!("/page/{name}")), "{of} names {name:?}");
                named += 1;
            }
        }
        assert!(named > 15, "{named} names found");
    }

    #[test]
    fn nothing_becomes_html_and_nothing_comes_from_elsewhere() {
        for (name, kind, text) in FILES.iter().chain([&INDEX]) {
            for never in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"] {
                assert!(!text.contains(never), "{name} contains {never}");
            }
            let elsewhere = text.matches("http://").count() + text.matches("https://").count();
            let namespace = text.matches("\"http://www.w3.org/2000/svg\"").count();
            assert_eq!(elsewhere, namespace, "{name} names another place");
            let inline = text.contains("<style") || text.contains(" style=\"") || text.contains(" onclick=");
            assert!(*kind != HTML || !inline, "{name} has what its policy refuses");
        }
    }
}
