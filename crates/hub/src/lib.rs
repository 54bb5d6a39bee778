//! Models by name: found in the Hugging Face cache, listed, downloaded, or only their headers.

#![forbid(unsafe_code)]

mod blob;
pub mod cache;
pub mod choose;
mod client;
mod error;
mod headers;
mod listing;
mod name;
mod pull;
mod settings;

use std::path::PathBuf;
use std::time::Duration;

pub use cache::{Cache, Cached, Removal};
pub use error::HubError;
pub use headers::Outline;
pub use listing::{Listing, RemoteFile};
pub use name::ModelName;
pub use pull::{Progress, Pulled};
pub use settings::Settings;

use client::Client;

/// Results of this crate.
pub type Result<T, E = HubError> = std::result::Result<T, E>;

/// How often something that failed for the moment is tried again.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Tries in a row that bring nothing; one that brings bytes begins the count anew.
    pub tries: u32,
    /// The wait before the second try; doubled before each further one.
    pub wait: Duration,
    /// The longest wait that a server may ask for and get.
    pub wait_max: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience { tries: 6, wait: Duration::from_secs(1), wait_max: Duration::from_secs(120) }
    }
}

/// The hub, and its cache on this machine.
#[derive(Clone)]
pub struct Hub {
    client: Client,
    cache: Cache,
    offline: bool,
}

impl Hub {
    /// As the environment says; see [`Settings::from_env`].
    ///
    /// # Errors
    /// When HF_ENDPOINT is no address, or the token can be none.
    pub fn new(settings: Settings, patience: Patience, tell: fn(&str)) -> Result<Hub> {
        let cache = Cache { dir: settings.cache.clone() };
        let offline = settings.offline;
        Ok(Hub { client: Client::new(settings, patience, tell)?, cache, offline })
    }

    /// Whether nobody may be asked.
    pub fn is_offline(&self) -> bool {
        self.offline
    }

    /// The cache.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Where a model lies in the cache: a folder, or its first GGUF file. `None` where it is not whole. Asks nobody.
    ///
    /// # Errors
    /// When the cache holds several GGUF files that it could be.
    pub fn find(&self, name: &ModelName) -> Result<Option<PathBuf>> {
        self.cache.find(name)
    }

    fn online(&self, name: &ModelName) -> Result<()> {
        if self.offline {
            Err(HubError::Offline { name: name.to_string(), cache: self.cache.dir.clone() })
        } else {
            Ok(())
        }
    }
}
