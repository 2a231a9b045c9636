pub(crate) trait Store: Clone + ::core::marker::Send + ::core::marker::Sync + 'static {
    fn put(
        &self,
        item: Item,
    ) -> impl ::core::future::Future<Output = ()> + ::core::marker::Send {
        async move { drop(item) }
    }
    #[cfg(feature = "search")]
    #[deprecated(note = "use `find`")]
    #[must_use]
    #[expect(clippy::too_many_arguments)]
    #[tracing::instrument]
    fn r#match(
        &self,
        r#type: String,
        limit: u32,
        order_by: Option<String>,
    ) -> impl ::core::future::Future<Output = Vec<Item>> + ::core::marker::Send;
}
/// Client of the service `store`: calls what a [`Store`] serves.
#[allow(dead_code, clippy::all, clippy::pedantic, clippy::nursery)]
pub(crate) struct StoreClient {
    inner: crate::reexports::messaging::__private::RpcClient,
}
/// Serves the service `store` with a handler that implements [`Store`].
#[allow(dead_code, clippy::all, clippy::pedantic, clippy::nursery)]
pub(crate) struct StoreServer<S> {
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
    use crate::reexports::messaging::__private::{
        ClosedLevelGate as _, ClosedRpcGate as _, ClosedTopicGate as _, NotResult as _,
    };
    use crate::reexports::messaging::__private::serde as __serde;
    const _: () = {
        crate::reexports::messaging::__private::assert_message::<Item>();
        crate::reexports::messaging::__private::assert_message::<()>();
        ::core::assert!(
            ! crate ::reexports::messaging::__private::Probe:: < () > ::IS_RESULT,
            "this type is an alias of a `Result`; write `Result<T, E>` in the trait, so that the error is part of the contract"
        );
        ::core::assert!(
            __Gate_put::OPEN,
            "a type of this method can't be used here; please report this as a bug of commlib"
        );
    };
    static __METHOD_put: crate::reexports::messaging::__private::MethodDescriptor = crate::reexports::messaging::__private::MethodDescriptor {
        name: "put-it",
        address: crate::reexports::messaging::Address::from_static("store.put-it"),
        timeout: ::core::option::Option::None,
        idempotent: false,
        oneway: false,
        durable: false,
    };
    type __Gate_put = crate::reexports::messaging::__private::RpcGate<
        Item,
        (),
        crate::reexports::messaging::NoError,
    >;
    #[cfg(feature = "search")]
    const _: () = {
        crate::reexports::messaging::__private::assert_message::<String>();
        crate::reexports::messaging::__private::assert_message::<u32>();
        crate::reexports::messaging::__private::assert_default::<u32>();
        crate::reexports::messaging::__private::assert_message::<Option<String>>();
        crate::reexports::messaging::__private::assert_message::<Vec<Item>>();
        ::core::assert!(
            ! crate ::reexports::messaging::__private::Probe:: < Vec < Item > >
            ::IS_RESULT,
            "this type is an alias of a `Result`; write `Result<T, E>` in the trait, so that the error is part of the contract"
        );
        ::core::assert!(
            __Gate_match::OPEN,
            "a type of this method can't be used here; please report this as a bug of commlib"
        );
    };
    #[cfg(feature = "search")]
    static __METHOD_match: crate::reexports::messaging::__private::MethodDescriptor = crate::reexports::messaging::__private::MethodDescriptor {
        name: "match",
        address: crate::reexports::messaging::Address::from_static("store.match"),
        timeout: ::core::option::Option::None,
        idempotent: false,
        oneway: false,
        durable: false,
    };
    #[cfg(feature = "search")]
    #[derive(__serde::Serialize, __serde::Deserialize)]
    #[serde(crate = "__serde")]
    struct __Request_match<__A0, __A1, __A2> {
        #[serde(rename = "type")]
        r#type: __A0,
        #[serde(rename = "limit")]
        #[serde(default)]
        limit: __A1,
        #[serde(rename = "orderBy")]
        order_by: __A2,
    }
    #[cfg(feature = "search")]
    #[automatically_derived]
    impl<
        __A0: crate::reexports::messaging::Message,
        __A1: crate::reexports::messaging::Message + ::core::default::Default,
        __A2: crate::reexports::messaging::Message,
    > crate::reexports::messaging::__private::schemars::JsonSchema
    for __Request_match<__A0, __A1, __A2> {
        fn schema_name() -> ::std::borrow::Cow<'static, str> {
            ::std::borrow::Cow::Borrowed("StoreMatchRequest")
        }
        fn schema_id() -> ::std::borrow::Cow<'static, str> {
            ::std::borrow::Cow::Borrowed(
                ::core::concat!(::core::module_path!(), "::", "StoreMatchRequest"),
            )
        }
        fn json_schema(
            generator: &mut crate::reexports::messaging::__private::schemars::SchemaGenerator,
        ) -> crate::reexports::messaging::__private::schemars::Schema {
            crate::reexports::messaging::__private::RequestSchema::new(generator)
                .field::<__A0>("type", "")
                .optional::<__A1>("limit", "")
                .field::<__A2>("orderBy", "")
                .finish()
        }
    }
    #[cfg(feature = "search")]
    type __Gate_match = crate::reexports::messaging::__private::RpcGate<
        __Request_match<String, u32, Option<String>>,
        Vec<Item>,
        crate::reexports::messaging::NoError,
    >;
    static __DESCRIPTOR: crate::reexports::messaging::__private::ServiceDescriptor = crate::reexports::messaging::__private::ServiceDescriptor {
        name: "store",
        methods: &[&__METHOD_put, #[cfg(feature = "search")] &__METHOD_match],
    };
    fn __contract() -> crate::reexports::messaging::Contract {
        let mut contract = crate::reexports::messaging::__private::ContractBuilder::rpc(
            &__DESCRIPTOR,
            "",
        );
        __Gate_put::describe(&mut contract, &__METHOD_put, "");
        #[cfg(feature = "search")]
        __Gate_match::describe(&mut contract, &__METHOD_match, "");
        contract.finish()
    }
    impl StoreClient {
        /// A client of the service `store` on this node's broker. Cheap; clones share the node.
        #[must_use]
        pub(crate) fn new(node: &crate::reexports::messaging::Node) -> Self {
            Self {
                inner: crate::reexports::messaging::__private::RpcClient::new(node),
            }
        }
        /// The contract of [`Store`]: its name, methods and schemas.
        #[must_use]
        pub(crate) fn contract() -> crate::reexports::messaging::Contract {
            __contract()
        }
        /// Calls `store.put-it`.
        pub(crate) fn put(
            &self,
            item: Item,
        ) -> crate::reexports::messaging::rpc::Call<
            (),
            crate::reexports::messaging::NoError,
        > {
            __Gate_put::call(&self.inner, &__METHOD_put, &item)
        }
        #[cfg(feature = "search")]
        /// Calls `store.match`.
        #[deprecated(note = "use `find`")]
        #[must_use]
        #[allow(clippy::too_many_arguments)]
        pub(crate) fn r#match(
            &self,
            r#type: String,
            limit: u32,
            order_by: Option<String>,
        ) -> crate::reexports::messaging::rpc::Call<
            Vec<Item>,
            crate::reexports::messaging::NoError,
        > {
            __Gate_match::call(
                &self.inner,
                &__METHOD_match,
                &__Request_match {
                    r#type,
                    limit,
                    order_by,
                },
            )
        }
    }
    #[automatically_derived]
    impl ::core::clone::Clone for StoreClient {
        fn clone(&self) -> Self {
            Self {
                inner: ::core::clone::Clone::clone(&self.inner),
            }
        }
    }
    #[automatically_derived]
    impl ::core::fmt::Debug for StoreClient {
        fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
            f.debug_struct("StoreClient").finish_non_exhaustive()
        }
    }
    impl<__S: Store> StoreServer<__S> {
        /// Makes a service out of a handler; give it to `Node::serve` to take calls of `store`.
        #[must_use]
        pub(crate) fn new(service: __S) -> Self {
            Self { service }
        }
        /// The contract of [`Store`]: its name, methods and schemas.
        #[must_use]
        pub(crate) fn contract() -> crate::reexports::messaging::Contract {
            __contract()
        }
    }
    #[automatically_derived]
    impl<__S> ::core::fmt::Debug for StoreServer<__S> {
        fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
            f.debug_struct("StoreServer").finish_non_exhaustive()
        }
    }
    impl<__S: Store> crate::reexports::messaging::Serve for StoreServer<__S> {
        type Builder = crate::reexports::messaging::rpc::ServeRpc;
        fn serve_on(
            self,
            node: &crate::reexports::messaging::Node,
        ) -> crate::reexports::messaging::rpc::ServeRpc {
            crate::reexports::messaging::__private::serve_rpc(
                node,
                ::std::sync::Arc::new(self),
            )
        }
    }
    #[deny(unreachable_patterns)]
    impl<__S: Store> crate::reexports::messaging::__private::RpcService
    for StoreServer<__S> {
        fn descriptor(
            &self,
        ) -> &'static crate::reexports::messaging::__private::ServiceDescriptor {
            &__DESCRIPTOR
        }
        fn call(
            self: ::std::sync::Arc<Self>,
            method: &str,
            ctx: crate::reexports::messaging::RequestContext,
            body: crate::reexports::messaging::__private::Bytes,
        ) -> crate::reexports::messaging::__private::BoxFuture<
            'static,
            crate::reexports::messaging::__private::HandlerResult,
        > {
            match method {
                "put-it" => {
                    ::std::boxed::Box::pin(async move {
                        let codec = ctx.codec();
                        let item = match __Gate_put::decode(codec, &body) {
                            ::core::result::Result::Ok(request) => request,
                            ::core::result::Result::Err(failure) => {
                                return ::core::result::Result::Err(failure);
                            }
                        };
                        let reply = <__S as Store>::put(&self.service, item).await;
                        __Gate_put::encode_reply(codec, &reply)
                    })
                }
                #[cfg(feature = "search")]
                "match" => {
                    ::std::boxed::Box::pin(async move {
                        let codec = ctx.codec();
                        let __Request_match { r#type, limit, order_by } = match __Gate_match::decode_object(
                            codec,
                            &body,
                        ) {
                            ::core::result::Result::Ok(request) => request,
                            ::core::result::Result::Err(failure) => {
                                return ::core::result::Result::Err(failure);
                            }
                        };
                        let reply = <__S as Store>::r#match(
                                &self.service,
                                r#type,
                                limit,
                                order_by,
                            )
                            .await;
                        __Gate_match::encode_reply(codec, &reply)
                    })
                }
                _ => crate::reexports::messaging::__private::unknown_method(method),
            }
        }
    }
};
