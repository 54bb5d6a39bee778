//! For each (layer, expert): the byte ranges that hold it, and where they land in a slot.

use std::sync::Arc;

use crate::checkpoint::SourceFile;

/// Parts an expert may have: three matrices of weights, scales and biases each, and a bias vector for each matrix.
pub const PARTS_MAX: usize = 12;

/// A byte range of a weight file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Length.
    pub bytes: u32,
    /// Index of the file.
    pub file: u32,
}

/// One routed expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExpertId {
    /// Layer of the model.
    pub layer: u32,
    /// Expert within the layer.
    pub expert: u32,
}

/// Where every routed expert of a model lies.
#[derive(Clone, Debug, Default)]
pub struct ExpertLayout {
    layers: Vec<Layer>,
    /// Slot sizes, ascending; quantisation mixes vary by layer, so there may be a few.
    classes: Vec<usize>,
}

#[derive(Clone, Debug, Default)]
struct Layer {
    /// Parts of each expert; 0 for a layer without routed experts.
    parts: usize,
    /// `experts × parts`.
    extents: Vec<Extent>,
    /// First flat index of the layer's experts.
    base: usize,
    class: usize,
}

/// One aligned read of an expert.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// Index of the file.
    pub file: usize,
    /// First byte, aligned.
    pub offset: u64,
    /// Length, aligned; may reach behind the end of the file.
    pub bytes: usize,
    /// Bytes that must arrive.
    pub needed: usize,
    /// Where in the slot, aligned.
    pub at: usize,
}

/// How an expert fills its slot: aligned reads, and where each part begins among the bytes read.
#[derive(Clone, Copy, Debug)]
pub struct Placement {
    runs: [Run; PARTS_MAX],
    run_count: usize,
    part_at: [usize; PARTS_MAX],
    parts: usize,
    bytes: usize,
}

impl Placement {
    /// The reads, in file order; ranges that touch were merged.
    pub fn runs(&self) -> &[Run] {
        &self.runs[..self.run_count]
    }

    /// First byte of each part within the slot.
    pub fn parts(&self) -> &[usize] {
        &self.part_at[..self.parts]
    }

    /// Bytes of the slot that it takes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl ExpertLayout {
    /// A layout from each layer's extents: `layers[l]` is (parts of an expert, `experts × parts` extents), with no
    /// extents for a layer without routed experts.
    pub fn new(layers: Vec<(usize, Vec<Extent>)>, files: &[Arc<SourceFile>]) -> ExpertLayout {
        let mut base = 0;
        let mut layout = ExpertLayout::default();
        for (parts, extents) in layers {
            assert!(parts <= PARTS_MAX, "an expert has at most {PARTS_MAX} parts, not {parts}");
            let layer = Layer { parts, extents, base, class: 0 };
            base += layer.experts();
            layout.layers.push(layer);
        }
        let slot_bytes: Vec<usize> = (0..layout.layers.len()).map(|l| layout.layer_slot_bytes(l, files)).collect();
        layout.classes = size_classes(slot_bytes.iter().copied().filter(|&bytes| bytes > 0).collect());
        for (layer, bytes) in layout.layers.iter_mut().zip(slot_bytes) {
            layer.class = layout.classes.partition_point(|&class| class < bytes);
        }
        layout
    }

    fn layer_slot_bytes(&self, layer: usize, files: &[Arc<SourceFile>]) -> usize {
        let id = |expert| ExpertId { layer: layer as u32, expert: expert as u32 };
        (0..self.experts(layer)).map(|expert| self.place(id(expert), files).bytes).max().unwrap_or(0)
    }

    /// Layers of the model.
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// Layers that have routed experts.
    pub fn sparse_layers(&self) -> usize {
        self.layers.iter().filter(|layer| layer.experts() > 0).count()
    }

    /// Routed experts of a layer.
    pub fn experts(&self, layer: usize) -> usize {
        self.layers[layer].experts()
    }

    /// Routed experts of the model.
    pub fn experts_total(&self) -> usize {
        self.layers.iter().map(Layer::experts).sum()
    }

    /// A dense number for an expert, below [`Self::experts_total`].
    pub fn index(&self, id: ExpertId) -> usize {
        self.layers[id.layer as usize].base + id.expert as usize
    }

    /// Slot sizes, ascending.
    pub fn classes(&self) -> &[usize] {
        &self.classes
    }

    /// The slot size of a layer's experts, as an index into [`Self::classes`].
    pub fn class(&self, layer: usize) -> usize {
        self.layers[layer].class
    }

    /// Routed experts of a size class.
    pub fn experts_of_class(&self, class: usize) -> usize {
        self.layers.iter().filter(|layer| layer.class == class).map(Layer::experts).sum()
    }

    /// The byte ranges of an expert, one for each part.
    pub fn extents(&self, id: ExpertId) -> &[Extent] {
        let layer = &self.layers[id.layer as usize];
        &layer.extents[id.expert as usize * layer.parts..][..layer.parts]
    }

    /// Bytes of an expert as stored.
    pub fn expert_bytes(&self, id: ExpertId) -> u64 {
        self.extents(id).iter().map(|extent| extent.bytes as u64).sum()
    }

    /// Bytes of all routed experts as stored.
    pub fn bytes_total(&self) -> u64 {
        self.layers.iter().flat_map(|layer| &layer.extents).map(|extent| extent.bytes as u64).sum()
    }

    /// How an expert's ranges become aligned reads into a slot.
    pub fn place(&self, id: ExpertId, files: &[Arc<SourceFile>]) -> Placement {
        place(self.extents(id), |file| files[file].align())
    }
}

impl Layer {
    fn experts(&self) -> usize {
        self.extents.len().checked_div(self.parts).unwrap_or(0)
    }
}

/// Sizes that differ by less than an eighth share a class.
fn size_classes(mut bytes: Vec<usize>) -> Vec<usize> {
    bytes.sort_unstable();
    let mut classes: Vec<usize> = Vec::new();
    let mut smallest = 0;
    for size in bytes {
        match classes.last_mut() {
            Some(class) if size <= smallest + smallest / 8 => *class = size,
            _ => {
                classes.push(size);
                smallest = size;
            }
        }
    }
    classes
}

fn place(extents: &[Extent], align: impl Fn(usize) -> usize) -> Placement {
    let mut order = [0; PARTS_MAX];
    let order = &mut order[..extents.len()];
    order.iter_mut().enumerate().for_each(|(i, slot)| *slot = i);
    order.sort_unstable_by_key(|&i| (extents[i].file, extents[i].offset));
    let mut placement = Placement {
        runs: [Run::default(); PARTS_MAX],
        run_count: 0,
        part_at: [0; PARTS_MAX],
        parts: extents.len(),
        bytes: 0,
    };
    for &part in order.iter() {
        let extent = extents[part];
        let align = align(extent.file as usize) as u64;
        let (start, end) =
            (extent.offset / align * align, (extent.offset + extent.bytes as u64).next_multiple_of(align));
        let needed = |run: &Run| (extent.offset + extent.bytes as u64 - run.offset) as usize;
        let last = placement.runs[..placement.run_count].last_mut();
        let run = match last.filter(|run| run.file == extent.file as usize && start <= run.offset + run.bytes as u64) {
            Some(run) => {
                run.bytes = run.bytes.max((end - run.offset) as usize);
                run.needed = run.needed.max(needed(run));
                *run
            }
            None => {
                let at = placement.bytes.next_multiple_of(align as usize);
                let mut run =
                    Run { file: extent.file as usize, offset: start, bytes: (end - start) as usize, needed: 0, at };
                run.needed = needed(&run);
                placement.runs[placement.run_count] = run;
                placement.run_count += 1;
                run
            }
        };
        placement.part_at[part] = run.at + (extent.offset - run.offset) as usize;
        placement.bytes = run.at + run.bytes;
    }
    placement
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(offset: u64, bytes: u32) -> Extent {
        Extent { offset, bytes, file: 0 }
    }

    #[test]
    fn touching_ranges_become_one_read() {
        let placement = place(&[extent(9000, 500), extent(8001, 999), extent(9500, 4000)], |_| 4096);
        assert_eq!(placement.runs(), [Run { file: 0, offset: 4096, bytes: 12288, needed: 9404, at: 0 }]);
        assert_eq!(placement.parts(), [9000 - 4096, 8001 - 4096, 9500 - 4096]);
        assert_eq!(placement.bytes(), 12288);
    }

    #[test]
    fn ranges_apart_keep_their_own_place() {
        let placement = place(&[extent(100_003, 10), extent(7, 4096)], |_| 4096);
        assert_eq!(placement.runs().len(), 2);
        assert_eq!(placement.runs()[0], Run { file: 0, offset: 0, bytes: 8192, needed: 4103, at: 0 });
        assert_eq!(placement.parts(), [8192 + 100_003 % 4096, 7]);
        assert_eq!(placement.bytes(), 8192 + 4096);
    }

    #[test]
    fn near_sizes_share_a_class() {
        assert_eq!(size_classes(vec![4096, 8192, 8192 + 512, 4096, 65536]), [4096, 8704, 65536]);
        assert_eq!(size_classes(vec![]), Vec::<usize>::new());
    }
}
