//! Prints `docs/models.md`.

fn main() {
    print!("{}", outpour_model::registry::page());
}
