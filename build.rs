//! Has cargo look at `public/` again before it carries it inside a release binary.

use std::path::Path;

fn main() {
    // Files that appear after the first build are noticed by the folder they are in; a folder that
    // is missing makes cargo look each time.
    for watched in ["public", "public/demo", "public/lib", "public/vendor/importmap.json"] {
        println!("cargo:rerun-if-changed={watched}");
    }
    println!("cargo:rerun-if-changed=build.rs");
    if !Path::new("public/vendor").exists() {
        println!("cargo:warning=the npm packages of the pages are missing; run: npm --prefix public ci");
    }
}
