//! Where the hub and its cache are, as `huggingface_hub` reads it from the environment.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use outpour_store::machine;

use crate::{HubError, Result};

/// What the environment says of the hub.
#[derive(Clone)]
pub struct Settings {
    /// The hub's address, without a slash at its end: `HF_ENDPOINT`.
    pub endpoint: String,
    /// The folder of the cache: `HF_HUB_CACHE`, else `hub` in `HF_HOME`, else in `~/.cache/huggingface`.
    pub cache: PathBuf,
    /// What tells the hub who asks: `HF_TOKEN`, else the file that `hf auth login` writes. Never shown.
    pub token: Option<String>,
    /// Whether nothing may be asked for: `HF_HUB_OFFLINE`.
    pub offline: bool,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = self.token.as_ref().map(|_| "…");
        let Settings { endpoint, cache, offline, .. } = self;
        write!(f, "{endpoint}, {}, token {token:?}, offline {offline}", cache.display())
    }
}

impl Settings {
    /// From the environment of this process.
    ///
    /// # Errors
    /// When nothing says where the cache is, not even the user's own folder.
    pub fn from_env() -> Result<Settings> {
        Settings::of(&|name| std::env::var_os(name), machine::home_dir())
    }

    fn of(get: &dyn Fn(&str) -> Option<OsString>, user: Option<PathBuf>) -> Result<Settings> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let text = |name: &str| get(name)?.into_string().ok();
        let on = |name: &str| {
            text(name).is_some_and(|value| ["1", "ON", "YES", "TRUE"].contains(&value.to_ascii_uppercase().as_str()))
        };
        let path = |name: &str| {
            let path = PathBuf::from(get(name)?);
            match path.strip_prefix("~") {
                Ok(rest) => user.as_ref().map(|user| user.join(rest)),
                Err(_) => Some(path),
            }
        };
        let caches = || path("XDG_CACHE_HOME").or_else(|| user.as_ref().map(|user| user.join(".cache")));
        let home = path("HF_HOME").or_else(|| Some(caches()?.join("huggingface")));
        let below = |name: &str| home.as_ref().map(|home| home.join(name));
        let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE")).or_else(|| below("hub"));
        let no_home = "this user has no home folder to keep models in: set HF_HOME to a folder for them";
        let cache = cache.ok_or_else(|| HubError::Settings(no_home.into()))?;
        let token_file = path("HF_TOKEN_PATH").or_else(|| below("token"));
        let token = text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN"));
        let token = token.or_else(|| std::fs::read_to_string(token_file?).ok()).map(|token| token.trim().to_owned());
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        Ok(Settings {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache,
            token: token.filter(|token| !token.is_empty() && !on("HF_HUB_DISABLE_IMPLICIT_TOKEN")),
            offline: on("HF_HUB_OFFLINE") || on("TRANSFORMERS_OFFLINE"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(environment: &[(&str, &str)]) -> Settings {
        of(environment, Some("/h")).expect("a cache")
    }

    fn of(environment: &[(&str, &str)], user: Option<&str>) -> Result<Settings> {
        let get = |name: &str| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
        Settings::of(&get, user.map(PathBuf::from))
    }

    #[test]
    fn the_cache_is_where_huggingface_hub_has_it() {
        let cache = |environment: &[(&str, &str)]| settings(environment).cache;
        assert_eq!(cache(&[]), PathBuf::from("/h/.cache/huggingface/hub"));
        assert_eq!(cache(&[("XDG_CACHE_HOME", "/x")]), PathBuf::from("/x/huggingface/hub"));
        assert_eq!(cache(&[("HF_HOME", "~/f"), ("XDG_CACHE_HOME", "/x")]), PathBuf::from("/h/f/hub"));
        assert_eq!(cache(&[("HF_HOME", "/f"), ("HUGGINGFACE_HUB_CACHE", "/old")]), PathBuf::from("/old"));
        assert_eq!(cache(&[("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HUB_CACHE", "/c")]), PathBuf::from("/c"));
    }

    #[test]
    fn without_a_home_the_cache_is_named_or_refused() {
        for environment in [&[][..], &[("HF_HOME", "~/f")]] {
            let refused = of(environment, None).expect_err("no folder");
            assert!(refused.to_string().contains("HF_HOME"), "{refused}");
        }
        let cache = |environment: &[(&str, &str)]| of(environment, None).expect("a cache").cache;
        assert_eq!(cache(&[("HF_HOME", "/f")]), PathBuf::from("/f/hub"));
        assert_eq!(cache(&[("HF_HUB_CACHE", "/c")]), PathBuf::from("/c"));
    }

    #[test]
    fn the_token_is_found_and_never_shown() {
        let home = tempfile::tempdir().expect("a folder");
        std::fs::write(home.path().join("token"), "hf_file\n").expect("it is written");
        let file = ("HF_HOME", home.path().to_str().expect("UTF-8"));
        assert_eq!(settings(&[file]).token.as_deref(), Some("hf_file"));
        let both = settings(&[file, ("HF_TOKEN", " hf_variable ")]);
        assert_eq!(both.token.as_deref(), Some("hf_variable"));
        assert!(!format!("{both:?}").contains("hf_"));
        assert_eq!(settings(&[file, ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]).token, None);
        assert_eq!(settings(&[("HF_HUB_OFFLINE", "yes"), ("HF_ENDPOINT", "http://x/")]).endpoint, "http://x");
        assert!(settings(&[("HF_HUB_OFFLINE", "yes")]).offline && !settings(&[("HF_HUB_OFFLINE", "0")]).offline);
    }
}
