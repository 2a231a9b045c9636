//! Runs the compile-fail and compile-pass cases; see README.md.

#[test]
fn refused() {
    trybuild::TestCases::new().compile_fail("fail/*.rs");
}

#[test]
fn accepted() {
    trybuild::TestCases::new().pass("pass/*.rs");
}
