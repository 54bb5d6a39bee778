//! Routes in a file: a line of JSON that says of what model, then a line for each step, `[layer, expert, expert, …]`.
//!
//! A NumPy array of bytes `[tokens, layers, top_k]` is read as well: each token's choices, layer by layer.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Trace;
use crate::{Result, StoreError};

/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 4 << 30;
/// Longest line: a prompt that uses every expert of a layer.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// Of what model the routes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Layers, those without experts included.
    pub layers: usize,
    /// Routed experts of the model.
    pub experts: usize,
    /// Bytes of an expert as stored; 0 where that is not known.
    pub expert_bytes: u64,
}

#[derive(Serialize, Deserialize)]
struct Head {
    routes: Shape,
}

impl Shape {
    /// The first line of a file.
    pub fn head(&self) -> String {
        serde_json::json!({ "routes": self }).to_string() + "\n"
    }
}

/// Appends a step's line.
pub fn push_line(layer: usize, experts: &[u32], out: &mut String) {
    use std::fmt::Write as _;
    // Writing to a string cannot fail.
    let _ = write!(out, "[{layer}");
    for expert in experts {
        let _ = write!(out, ",{expert}");
    }
    out.push_str("]\n");
}

/// Reads a file of routes.
///
/// # Errors
/// Names the file and the line that is wrong.
pub fn read(path: &Path) -> Result<(Shape, Trace)> {
    let problem = |what: String| StoreError::Other(format!("{}: {what}", path.display()));
    let unreadable =
        |error: std::io::Error| problem(format!("cannot be read ({error}): name a file of --trace-routes"));
    let file = File::open(path).map_err(unreadable)?;
    let bytes = file.metadata().map_err(unreadable)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(problem(format!("is {bytes} bytes long, more than {FILE_BYTES_MAX}: record fewer tokens")));
    }
    let mut file = BufReader::new(file);
    if file.fill_buf().map_err(unreadable)?.starts_with(NPY_MAGIC) {
        let mut array = Vec::new();
        file.read_to_end(&mut array).map_err(unreadable)?;
        return npy(&array).map_err(|what| problem(format!("{what}: give bytes [tokens, layers, top_k]")));
    }
    let mut line = String::new();
    let mut next = |line: &mut String| {
        line.clear();
        (&mut file).take(LINE_BYTES_MAX).read_line(line).map_err(unreadable)
    };
    next(&mut line)?;
    let head: Head = serde_json::from_str(&line)
        .map_err(|error| problem(format!("is no file of routes ({error}): name a file of --trace-routes")))?;
    let (shape, mut trace) = (head.routes, Trace::default());
    for number in 2.. {
        if next(&mut line)? == 0 {
            break;
        }
        let step: Vec<u32> =
            serde_json::from_str(&line).map_err(|error| problem(format!("line {number}: {error}; record it again")))?;
        let (&layer, experts) = step.split_first().ok_or_else(|| problem(format!("line {number}: names no layer")))?;
        if layer as usize >= shape.layers || experts.iter().any(|&expert| expert as usize >= shape.experts) {
            return Err(problem(format!(
                "line {number}: names a layer or expert that a model of {} layers and {} experts has not",
                shape.layers, shape.experts
            )));
        }
        trace.push(layer, experts);
    }
    Ok((shape, trace))
}

const NPY_MAGIC: &[u8] = b"\x93NUMPY";

/// An array of bytes `[tokens, layers, top_k]` in C order.
fn npy(bytes: &[u8]) -> std::result::Result<(Shape, Trace), String> {
    let length = bytes.get(8..10).map_or(0, |length| u16::from_le_bytes([length[0], length[1]]) as usize);
    let head = bytes.get(10..10 + length).and_then(|head| std::str::from_utf8(head).ok()).ok_or("has no head")?;
    if !head.contains("'|u1'") || head.contains("'fortran_order': True") {
        return Err("is no array of bytes in C order".into());
    }
    let dims = head.split_once("'shape': (").and_then(|(_, rest)| rest.split_once(')')).ok_or("has no shape")?.0;
    let dims: Vec<usize> = dims.split(',').filter_map(|dim| dim.trim().parse().ok()).collect();
    let (&[tokens, layers, top_k], data) = (dims.as_slice(), &bytes[10 + length..]) else {
        return Err("has no three dimensions".into());
    };
    let total = tokens.checked_mul(layers).and_then(|rows| rows.checked_mul(top_k));
    if total != Some(data.len()) || top_k == 0 {
        return Err(format!("holds {} bytes and not {tokens} × {layers} × {top_k}", data.len()));
    }
    let mut trace = Trace::default();
    for (step, experts) in data.chunks(top_k).enumerate() {
        let experts: Vec<u32> = experts.iter().map(|&expert| u32::from(expert)).collect();
        trace.push((step % layers) as u32, &experts);
    }
    // As many as the array tells of: the model may have more.
    let each = data.iter().max().map_or(0, |&last| last as usize + 1);
    Ok((Shape { layers, experts: layers * each, expert_bytes: 0 }, trace))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(content: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("routes");
        std::fs::write(&path, content).unwrap();
        (folder, path)
    }

    #[test]
    fn what_is_written_is_read_back() {
        let shape = Shape { layers: 3, experts: 12, expert_bytes: 1000 };
        let mut text = shape.head();
        push_line(0, &[3, 1], &mut text);
        push_line(2, &[], &mut text);
        push_line(1, &[11], &mut text);
        let (_folder, path) = written(text.as_bytes());
        let (read_shape, trace) = read(&path).unwrap();
        assert_eq!(read_shape, shape);
        let steps: Vec<_> = trace.steps().collect();
        assert_eq!(steps, [(0, &[1, 3][..]), (2, &[][..]), (1, &[11][..])]);
    }

    #[test]
    fn a_damaged_file_names_its_line() {
        let head = Shape { layers: 2, experts: 4, expert_bytes: 0 }.head();
        for (content, says) in [
            (String::new(), "no file of routes"),
            ("{}\n".into(), "no file of routes"),
            (head.clone() + "[0,1]\n[0,", "line 3"),
            (head.clone() + "[2,1]\n", "line 2: names a layer"),
            (head.clone() + "[0,4]\n", "line 2: names a layer"),
            (head.clone() + "[]\n", "line 2: names no layer"),
            (head + "[0,-1]\n", "line 2"),
        ] {
            let (_folder, path) = written(content.as_bytes());
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains(says) && error.lines().count() == 1, "{content}: {error}");
        }
    }

    #[test]
    fn an_array_of_numpy_is_read() {
        let head = "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 2, 2), }\n";
        let array = |head: &str, data: &[u8]| {
            [NPY_MAGIC, &[1, 0], &(head.len() as u16).to_le_bytes(), head.as_bytes(), data].concat()
        };
        let (_folder, path) = written(&array(head, &[1, 0, 2, 3, 1, 4, 5, 0]));
        let (shape, trace) = read(&path).unwrap();
        assert_eq!((shape.layers, shape.experts), (2, 12));
        let steps: Vec<_> = trace.steps().collect();
        assert_eq!(steps, [(0, &[0, 1][..]), (1, &[2, 3][..]), (0, &[1, 4][..]), (1, &[0, 5][..])]);
        for (head, data) in [
            (head, &[0; 7][..]),
            ("{'descr': '<f4', 'shape': (2, 2, 2)}", &[0; 8]),
            ("", &[]),
            ("{'descr': '|u1', 'shape': (8,)}", &[0; 8]),
        ] {
            let (_folder, path) = written(&array(head, data));
            assert!(read(&path).is_err(), "{head}");
        }
    }
}
