//! Prints `docs/http.md`.

fn main() {
    print!("{}", outpour_serve::http_page());
}
