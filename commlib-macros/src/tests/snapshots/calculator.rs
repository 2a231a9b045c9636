/// Does sums.
pub trait Calculator: ::core::marker::Send + ::core::marker::Sync + 'static {
    /// Adds two integers.
    fn add(
        &self,
        a: i64,
        b: i64,
    ) -> impl ::core::future::Future<Output = Sum> + ::core::marker::Send;
    fn div(
        &self,
        ctx: &RequestContext,
        a: i64,
        b: i64,
    ) -> impl ::core::future::Future<
        Output = Result<i64, DivError>,
    > + ::core::marker::Send;
    fn reset(&self) -> impl ::core::future::Future<Output = ()> + ::core::marker::Send;
}
/// Client of the service `calculator`: calls what a [`Calculator`] serves.
///
/// Does sums.
#[allow(dead_code, clippy::all, clippy::pedantic, clippy::nursery)]
pub struct CalculatorClient {
    inner: ::commlib::__private::RpcClient,
}
/// Serves the service `calculator` with a handler that implements [`Calculator`].
///
/// Does sums.
#[allow(dead_code, clippy::all, clippy::pedantic, clippy::nursery)]
pub struct CalculatorServer<S> {
    service: S,
}
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
    use ::commlib::__private::{
        ClosedLevelGate as _, ClosedRpcGate as _, ClosedTopicGate as _, NotResult as _,
    };
    use ::commlib::__private::serde as __serde;
    const _: () = {
        ::commlib::__private::assert_message::<i64>();
        ::commlib::__private::assert_message::<i64>();
        ::commlib::__private::assert_message::<Sum>();
        ::core::assert!(
            ! ::commlib::__private::Probe:: < Sum > ::IS_RESULT,
            "this type is an alias of a `Result`; write `Result<T, E>` in the trait, so that the error is part of the contract"
        );
        ::core::assert!(
            __Gate_add::OPEN,
            "a type of this method can't be used here; please report this as a bug of commlib"
        );
    };
    static __METHOD_add: ::commlib::__private::MethodDescriptor = ::commlib::__private::MethodDescriptor {
        name: "add",
        address: ::commlib::Address::from_static("calculator.add"),
        timeout: ::core::option::Option::None,
        idempotent: true,
        oneway: false,
        durable: false,
    };
    #[derive(__serde::Serialize, __serde::Deserialize)]
    #[serde(crate = "__serde")]
    struct __Request_add<__A0, __A1> {
        #[serde(rename = "a")]
        a: __A0,
        #[serde(rename = "b")]
        b: __A1,
    }
    #[automatically_derived]
    impl<
        __A0: ::commlib::Message,
        __A1: ::commlib::Message,
    > ::commlib::__private::schemars::JsonSchema for __Request_add<__A0, __A1> {
        fn schema_name() -> ::std::borrow::Cow<'static, str> {
            ::std::borrow::Cow::Borrowed("CalculatorAddRequest")
        }
        fn schema_id() -> ::std::borrow::Cow<'static, str> {
            ::std::borrow::Cow::Borrowed(
                ::core::concat!(::core::module_path!(), "::", "CalculatorAddRequest"),
            )
        }
        fn json_schema(
            generator: &mut ::commlib::__private::schemars::SchemaGenerator,
        ) -> ::commlib::__private::schemars::Schema {
            ::commlib::__private::RequestSchema::new(generator)
                .field::<__A0>("a", "")
                .field::<__A1>("b", "")
                .finish()
        }
    }
    type __Gate_add = ::commlib::__private::RpcGate<
        __Request_add<i64, i64>,
        Sum,
        ::commlib::NoError,
    >;
    const _: () = {
        ::commlib::__private::assert_message::<i64>();
        ::commlib::__private::assert_message::<i64>();
        ::commlib::__private::assert_message::<i64>();
        ::commlib::__private::assert_error::<DivError>();
        ::core::assert!(
            __Gate_div::OPEN,
            "a type of this method can't be used here; please report this as a bug of commlib"
        );
    };
    static __METHOD_div: ::commlib::__private::MethodDescriptor = ::commlib::__private::MethodDescriptor {
        name: "div",
        address: ::commlib::Address::from_static("calculator.div"),
        timeout: ::core::option::Option::Some(::core::time::Duration::new(2u64, 0u32)),
        idempotent: false,
        oneway: false,
        durable: false,
    };
    #[derive(__serde::Serialize, __serde::Deserialize)]
    #[serde(crate = "__serde")]
    struct __Request_div<__A0, __A1> {
        #[serde(rename = "a")]
        a: __A0,
        #[serde(rename = "b")]
        b: __A1,
    }
    #[automatically_derived]
    impl<
        __A0: ::commlib::Message,
        __A1: ::commlib::Message,
    > ::commlib::__private::schemars::JsonSchema for __Request_div<__A0, __A1> {
        fn schema_name() -> ::std::borrow::Cow<'static, str> {
            ::std::borrow::Cow::Borrowed("CalculatorDivRequest")
        }
        fn schema_id() -> ::std::borrow::Cow<'static, str> {
            ::std::borrow::Cow::Borrowed(
                ::core::concat!(::core::module_path!(), "::", "CalculatorDivRequest"),
            )
        }
        fn json_schema(
            generator: &mut ::commlib::__private::schemars::SchemaGenerator,
        ) -> ::commlib::__private::schemars::Schema {
            ::commlib::__private::RequestSchema::new(generator)
                .field::<__A0>("a", "")
                .field::<__A1>("b", "")
                .finish()
        }
    }
    type __Gate_div = ::commlib::__private::RpcGate<
        __Request_div<i64, i64>,
        i64,
        DivError,
    >;
    const _: () = {
        ::commlib::__private::assert_message::<()>();
        ::core::assert!(
            ! ::commlib::__private::Probe:: < () > ::IS_RESULT,
            "this type is an alias of a `Result`; write `Result<T, E>` in the trait, so that the error is part of the contract"
        );
        ::core::assert!(
            __Gate_reset::OPEN,
            "a type of this method can't be used here; please report this as a bug of commlib"
        );
    };
    static __METHOD_reset: ::commlib::__private::MethodDescriptor = ::commlib::__private::MethodDescriptor {
        name: "reset",
        address: ::commlib::Address::from_static("calculator.reset"),
        timeout: ::core::option::Option::None,
        idempotent: false,
        oneway: true,
        durable: false,
    };
    #[derive(__serde::Serialize, __serde::Deserialize)]
    #[serde(crate = "__serde")]
    struct __Request_reset {}
    #[automatically_derived]
    impl ::commlib::__private::schemars::JsonSchema for __Request_reset {
        fn schema_name() -> ::std::borrow::Cow<'static, str> {
            ::std::borrow::Cow::Borrowed("CalculatorResetRequest")
        }
        fn schema_id() -> ::std::borrow::Cow<'static, str> {
            ::std::borrow::Cow::Borrowed(
                ::core::concat!(::core::module_path!(), "::", "CalculatorResetRequest"),
            )
        }
        fn json_schema(
            generator: &mut ::commlib::__private::schemars::SchemaGenerator,
        ) -> ::commlib::__private::schemars::Schema {
            ::commlib::__private::RequestSchema::new(generator).finish()
        }
    }
    type __Gate_reset = ::commlib::__private::RpcGate<
        __Request_reset,
        (),
        ::commlib::NoError,
    >;
    static __DESCRIPTOR: ::commlib::__private::ServiceDescriptor = ::commlib::__private::ServiceDescriptor {
        name: "calculator",
        methods: &[&__METHOD_add, &__METHOD_div, &__METHOD_reset],
    };
    fn __contract() -> ::commlib::Contract {
        let mut contract = ::commlib::__private::ContractBuilder::rpc(
            &__DESCRIPTOR,
            "Does sums.",
        );
        __Gate_add::describe(&mut contract, &__METHOD_add, "Adds two integers.");
        __Gate_div::describe(&mut contract, &__METHOD_div, "");
        __Gate_reset::describe(&mut contract, &__METHOD_reset, "");
        contract.finish()
    }
    impl CalculatorClient {
        /// A client of the service `calculator` on this node's broker. Cheap; clones share the node.
        #[must_use]
        pub fn new(node: &::commlib::Node) -> Self {
            Self {
                inner: ::commlib::__private::RpcClient::new(node),
            }
        }
        /// The contract of [`Calculator`]: its name, methods and schemas.
        #[must_use]
        pub fn contract() -> ::commlib::Contract {
            __contract()
        }
        /// Adds two integers.
        pub fn add(
            &self,
            a: i64,
            b: i64,
        ) -> ::commlib::rpc::Call<Sum, ::commlib::NoError> {
            __Gate_add::call(&self.inner, &__METHOD_add, &__Request_add { a, b })
        }
        /// Calls `calculator.div`.
        pub fn div(&self, a: i64, b: i64) -> ::commlib::rpc::Call<i64, DivError> {
            __Gate_div::call(&self.inner, &__METHOD_div, &__Request_div { a, b })
        }
        /// Calls `calculator.reset`.
        pub fn reset(&self) -> ::commlib::rpc::Oneway {
            __Gate_reset::oneway(&self.inner, &__METHOD_reset, &__Request_reset {})
        }
    }
    #[automatically_derived]
    impl ::core::clone::Clone for CalculatorClient {
        fn clone(&self) -> Self {
            Self {
                inner: ::core::clone::Clone::clone(&self.inner),
            }
        }
    }
    #[automatically_derived]
    impl ::core::fmt::Debug for CalculatorClient {
        fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
            f.debug_struct("CalculatorClient").finish_non_exhaustive()
        }
    }
    impl<__S: Calculator> CalculatorServer<__S> {
        /// Makes a service out of a handler; give it to `Node::serve` to take calls of `calculator`.
        #[must_use]
        pub fn new(service: __S) -> Self {
            Self { service }
        }
        /// The contract of [`Calculator`]: its name, methods and schemas.
        #[must_use]
        pub fn contract() -> ::commlib::Contract {
            __contract()
        }
    }
    #[automatically_derived]
    impl<__S> ::core::fmt::Debug for CalculatorServer<__S> {
        fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
            f.debug_struct("CalculatorServer").finish_non_exhaustive()
        }
    }
    impl<__S: Calculator> ::commlib::Serve for CalculatorServer<__S> {
        type Builder = ::commlib::rpc::ServeRpc;
        fn serve_on(self, node: &::commlib::Node) -> ::commlib::rpc::ServeRpc {
            ::commlib::__private::serve_rpc(node, ::std::sync::Arc::new(self))
        }
    }
    #[deny(unreachable_patterns)]
    impl<__S: Calculator> ::commlib::__private::RpcService for CalculatorServer<__S> {
        fn descriptor(&self) -> &'static ::commlib::__private::ServiceDescriptor {
            &__DESCRIPTOR
        }
        fn call(
            self: ::std::sync::Arc<Self>,
            method: &str,
            ctx: ::commlib::RequestContext,
            body: ::commlib::__private::Bytes,
        ) -> ::commlib::__private::BoxFuture<
            'static,
            ::commlib::__private::HandlerResult,
        > {
            match method {
                "add" => {
                    ::std::boxed::Box::pin(async move {
                        let codec = ctx.codec();
                        let __Request_add { a, b } = match __Gate_add::decode_object(
                            codec,
                            &body,
                        ) {
                            ::core::result::Result::Ok(request) => request,
                            ::core::result::Result::Err(failure) => {
                                return ::core::result::Result::Err(failure);
                            }
                        };
                        let reply = <__S as Calculator>::add(&self.service, a, b).await;
                        __Gate_add::encode_reply(codec, &reply)
                    })
                }
                "div" => {
                    ::std::boxed::Box::pin(async move {
                        let codec = ctx.codec();
                        let __Request_div { a, b } = match __Gate_div::decode_object(
                            codec,
                            &body,
                        ) {
                            ::core::result::Result::Ok(request) => request,
                            ::core::result::Result::Err(failure) => {
                                return ::core::result::Result::Err(failure);
                            }
                        };
                        let reply = <__S as Calculator>::div(&self.service, &ctx, a, b)
                            .await;
                        __Gate_div::encode_result(codec, &reply)
                    })
                }
                "reset" => {
                    ::std::boxed::Box::pin(async move {
                        let codec = ctx.codec();
                        let __Request_reset {} = match __Gate_reset::decode_object(
                            codec,
                            &body,
                        ) {
                            ::core::result::Result::Ok(request) => request,
                            ::core::result::Result::Err(failure) => {
                                return ::core::result::Result::Err(failure);
                            }
                        };
                        let reply = <__S as Calculator>::reset(&self.service).await;
                        __Gate_reset::encode_reply(codec, &reply)
                    })
                }
                _ => ::commlib::__private::unknown_method(method),
            }
        }
    }
};
