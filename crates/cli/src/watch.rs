//! What verbs watch while the engine works: routes and a timeline into files, and the bound of the work done.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use outpour_engine::bound::Running;
use outpour_engine::{Inspection, LayerCost, Observer, Progress, Timeline};
use outpour_store::layout::ExpertLayout;
use outpour_store::trace::file::{Shape, push_line};
use outpour_store::trace::routed;

use crate::floors::Chosen;
use crate::model;
use crate::npy::WholeOrNothing;

/// An observer with others beside it.
pub struct Watch<'a> {
    /// Shows progress, and may break off.
    pub inner: &'a mut dyn Observer,
    /// Adds up what the work could have taken.
    pub bound: &'a mut Running,
    /// Is told every choice of experts.
    pub routes: Option<&'a mut Routes>,
    /// Keeps them, to be replayed.
    pub chosen: Option<&'a mut Chosen>,
}

impl Observer for Watch<'_> {
    fn routes(&mut self, layer: usize, positions: &[u32], choice: &[i32], weights: &[f32]) {
        self.inner.routes(layer, positions, choice, weights);
        if let Some(routes) = &mut self.routes {
            routes.push(layer, choice);
        }
        if let Some(chosen) = &mut self.chosen {
            chosen.push(layer, choice);
        }
    }

    fn layer(&mut self, cost: &LayerCost) {
        self.bound.layer(cost);
    }

    fn progress(&mut self, progress: Progress) -> ControlFlow<()> {
        self.inner.progress(progress)
    }
}

/// Begins a file that is none of the model's.
fn create_beside(path: &Path, inspection: &Inspection) -> Result<WholeOrNothing> {
    WholeOrNothing::create(path, &model::own_files(inspection.checkpoint()))
}

/// A file of routes under way.
pub struct Routes {
    out: WholeOrNothing,
    layout: Arc<ExpertLayout>,
    experts: Vec<u32>,
    line: String,
    failed: Option<anyhow::Error>,
}

impl Routes {
    /// Begins the file `path`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(path: &Path, inspection: &Inspection) -> Result<Routes> {
        let mut out = create_beside(path, inspection)?;
        let layout = &inspection.layout;
        let (experts, bytes) = (layout.experts_total(), layout.bytes_total());
        let shape = Shape { layers: layout.layers(), experts, expert_bytes: bytes / experts.max(1) as u64 };
        out.write(shape.head().as_bytes())?;
        Ok(Routes { out, layout: layout.clone(), experts: Vec::new(), line: String::new(), failed: None })
    }

    fn push(&mut self, layer: usize, choice: &[i32]) {
        if self.failed.is_some() {
            return;
        }
        self.experts.clear();
        self.experts.extend(routed(choice, self.layout.experts(layer)));
        self.experts.sort_unstable();
        self.experts.dedup();
        self.line.clear();
        push_line(layer, &self.experts, &mut self.line);
        self.failed = self.out.write(self.line.as_bytes()).err();
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// When any of it could not be written.
    pub fn finish(self) -> Result<()> {
        match self.failed {
            Some(error) => Err(error),
            None => self.out.finish(),
        }
    }
}

/// A timeline's file under way.
pub struct TimelineFile {
    /// What writes it.
    pub timeline: Timeline,
    out: SharedFile,
}

/// A file that its writer and the one who ends it hold; `None` when it is ended.
#[derive(Clone)]
struct SharedFile(Arc<Mutex<Option<WholeOrNothing>>>);

impl SharedFile {
    fn with<T>(&self, act: impl FnOnce(&mut Option<WholeOrNothing>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for SharedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.with(|out| out.as_mut().map_or(Ok(()), |out| out.write(bytes)));
        written.map(|()| bytes.len()).map_err(|error| io::Error::other(format!("{error:#}")))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl TimelineFile {
    /// Begins the file `path`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(path: &Path, inspection: &Inspection) -> Result<TimelineFile> {
        let out = SharedFile(Arc::new(Mutex::new(Some(create_beside(path, inspection)?))));
        Ok(TimelineFile { timeline: Timeline::new(out.clone()), out })
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// When any of it could not be written.
    pub fn finish(self) -> Result<()> {
        self.timeline.finish()?;
        self.out.with(Option::take).map_or(Ok(()), WholeOrNothing::finish)
    }
}
