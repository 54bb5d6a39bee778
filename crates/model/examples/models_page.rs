//! Prints `docs/models.md`.

use std::path::Path;

fn main() {
    let families = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/families");
    let lines = |file: &str| std::fs::read_to_string(families.join(file)).expect(file).lines().count();
    print!("{}", outpour_model::registry::page(lines));
}
