pub trait Broken<T>: ::core::marker::Send + ::core::marker::Sync + 'static {
    fn good(
        &self,
        a: i64,
    ) -> impl ::core::future::Future<Output = Sum> + ::core::marker::Send;
    #[allow(async_fn_in_trait)]
    async fn bad(&self, argument_1: (i64, i64), name: &str) -> impl Display
    where
        Self: ::core::marker::Sized;
}
/// Stands in for the generated item while the trait has errors.
#[allow(dead_code, clippy::all, clippy::pedantic, clippy::nursery)]
pub struct BrokenClient;
#[allow(
    dead_code,
    deprecated,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unused_imports,
    unused_mut,
    clippy::all,
    clippy::pedantic,
    clippy::nursery
)]
const _: () = {
    impl BrokenClient {
        #[must_use]
        pub fn new(_: &::commlib::Node) -> Self {
            ::std::process::abort()
        }
        pub fn contract() -> ::commlib::Contract {
            ::std::process::abort()
        }
        /// Stands in while the trait has errors.
        pub fn good(&self, _a0: i64) -> ::commlib::rpc::Call<Sum, ::commlib::NoError> {
            ::std::process::abort()
        }
        /// Stands in while the trait has errors.
        pub fn bad(
            &self,
            _a0: (i64, i64),
            _a1: impl ::core::marker::Sized,
        ) -> ::commlib::rpc::Call<(), ::commlib::NoError> {
            ::std::process::abort()
        }
    }
    impl ::core::clone::Clone for BrokenClient {
        fn clone(&self) -> Self {
            ::std::process::abort()
        }
    }
    #[automatically_derived]
    impl ::core::fmt::Debug for BrokenClient {
        fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
            f.debug_struct("BrokenClient").finish_non_exhaustive()
        }
    }
};
/// Stands in for the generated item while the trait has errors.
#[allow(dead_code, clippy::all, clippy::pedantic, clippy::nursery)]
pub struct BrokenServer<S>(S);
#[allow(
    dead_code,
    deprecated,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unused_imports,
    unused_mut,
    clippy::all,
    clippy::pedantic,
    clippy::nursery
)]
const _: () = {
    impl<__S> BrokenServer<__S> {
        pub fn new(_: __S) -> Self {
            ::std::process::abort()
        }
        pub fn contract() -> ::commlib::Contract {
            ::std::process::abort()
        }
    }
    #[automatically_derived]
    impl<__S> ::core::fmt::Debug for BrokenServer<__S> {
        fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
            f.debug_struct("BrokenServer").finish_non_exhaustive()
        }
    }
};
#[allow(
    dead_code,
    deprecated,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unused_imports,
    unused_mut,
    clippy::all,
    clippy::pedantic,
    clippy::nursery
)]
const _: () = {
    impl<__S> ::commlib::Serve for BrokenServer<__S> {
        type Builder = ::commlib::rpc::ServeRpc;
        fn serve_on(self, _: &::commlib::Node) -> ::commlib::rpc::ServeRpc {
            ::std::process::abort()
        }
    }
};
