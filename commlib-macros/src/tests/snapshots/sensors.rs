/// What the robot feels.
pub trait Sensors: ::core::marker::Send + ::core::marker::Sync + 'static {
    /// Distance to the next obstacle.
    fn sonar(
        &self,
        index: u8,
        ctx: &MessageContext,
        side: Side,
        reading: Sonar,
    ) -> impl ::core::future::Future<Output = ()> + ::core::marker::Send;
    fn bumper(
        &self,
        hit: Bump,
    ) -> impl ::core::future::Future<Output = Result<(), Missed>> + ::core::marker::Send;
}
/// Publishes on the topics `sensors.…` what a [`Sensors`] handles.
///
/// What the robot feels.
#[allow(dead_code, clippy::all, clippy::pedantic, clippy::nursery)]
pub struct SensorsPublisher {
    inner: ::commlib::__private::TopicPublisher,
}
/// Subscribes to the topics `sensors.…` of [`Sensors`].
///
/// What the robot feels.
#[allow(dead_code, clippy::all, clippy::pedantic, clippy::nursery)]
pub struct SensorsSubscriber {
    inner: ::commlib::__private::TopicSubscriber,
}
/// Handles the topics `sensors.…` with a handler that implements [`Sensors`].
///
/// What the robot feels.
#[allow(dead_code, clippy::all, clippy::pedantic, clippy::nursery)]
pub struct SensorsHandler<S> {
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
        ::commlib::__private::assert_level::<u8>();
        ::commlib::__private::assert_level::<Side>();
        ::commlib::__private::assert_message::<Sonar>();
        ::core::assert!(
            __Gate_sonar::OPEN,
            "a type of this method can't be used here; please report this as a bug of commlib"
        );
    };
    type __Gate_sonar = ::commlib::__private::TopicGate<Sonar, (Side, u8)>;
    static __TOPIC_sonar: ::commlib::__private::TopicDescriptor = ::commlib::__private::TopicDescriptor {
        name: "sonar",
        template: ::commlib::__private::Template::from_static(
            "sensors.sonar.{side}.{index}",
        ),
        durable: false,
    };
    const _: () = {
        ::commlib::__private::assert_message::<Bump>();
        ::core::assert!(
            __Gate_bumper::OPEN,
            "a type of this method can't be used here; please report this as a bug of commlib"
        );
        ::core::assert!(
            ::commlib::__private::DURABLE,
            "`bumper` is durable: enable the feature `durable` of the crate commlib"
        );
    };
    type __Gate_bumper = ::commlib::__private::TopicGate<Bump, ()>;
    static __TOPIC_bumper: ::commlib::__private::TopicDescriptor = ::commlib::__private::TopicDescriptor {
        name: "bumper",
        template: ::commlib::__private::Template::from_static("sensors.bumper"),
        durable: true,
    };
    static __DESCRIPTOR: ::commlib::__private::TopicsDescriptor = ::commlib::__private::TopicsDescriptor {
        prefix: "sensors",
        topics: &[&__TOPIC_sonar, &__TOPIC_bumper],
    };
    fn __contract() -> ::commlib::Contract {
        let mut contract = ::commlib::__private::ContractBuilder::topics(
            &__DESCRIPTOR,
            "What the robot feels.",
        );
        __Gate_sonar::describe(
            &mut contract,
            &__TOPIC_sonar,
            "Distance to the next obstacle.",
        );
        __Gate_bumper::describe(&mut contract, &__TOPIC_bumper, "");
        contract.finish()
    }
    impl SensorsPublisher {
        /// A publisher of the topics `sensors.…` on this node's broker. Cheap; clones share the node.
        #[must_use]
        pub fn new(node: &::commlib::Node) -> Self {
            Self {
                inner: ::commlib::__private::TopicPublisher::new(node),
            }
        }
        /// The contract of [`Sensors`]: its name, methods and schemas.
        #[must_use]
        pub fn contract() -> ::commlib::Contract {
            __contract()
        }
        /// Distance to the next obstacle.
        pub fn sonar(
            &self,
            index: u8,
            side: Side,
            reading: Sonar,
        ) -> ::commlib::topic::Publish {
            __Gate_sonar::publish(
                &self.inner,
                &__TOPIC_sonar,
                ::std::vec![
                    ::commlib::__private::LevelGate:: < Side > ::to_level(& side),
                    ::commlib::__private::LevelGate:: < u8 > ::to_level(& index)
                ],
                &reading,
            )
        }
        /// Publishes on `sensors.bumper`.
        pub fn bumper(&self, hit: Bump) -> ::commlib::topic::Publish {
            __Gate_bumper::publish(&self.inner, &__TOPIC_bumper, ::std::vec![], &hit)
        }
    }
    #[automatically_derived]
    impl ::core::clone::Clone for SensorsPublisher {
        fn clone(&self) -> Self {
            Self {
                inner: ::core::clone::Clone::clone(&self.inner),
            }
        }
    }
    #[automatically_derived]
    impl ::core::fmt::Debug for SensorsPublisher {
        fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
            f.debug_struct("SensorsPublisher").finish_non_exhaustive()
        }
    }
    impl SensorsSubscriber {
        /// A subscriber of the topics `sensors.…` on this node's broker. Cheap; clones share the node.
        #[must_use]
        pub fn new(node: &::commlib::Node) -> Self {
            Self {
                inner: ::commlib::__private::TopicSubscriber::new(node),
            }
        }
        /// The contract of [`Sensors`]: its name, methods and schemas.
        #[must_use]
        pub fn contract() -> ::commlib::Contract {
            __contract()
        }
        /// Distance to the next obstacle.
        pub fn sonar(
            &self,
            index: impl ::commlib::topic::IntoSelector<u8>,
            side: impl ::commlib::topic::IntoSelector<Side>,
        ) -> ::commlib::topic::Subscribe<Sonar, (Side, u8)> {
            __Gate_sonar::subscribe(
                &self.inner,
                &__TOPIC_sonar,
                ::std::vec![
                    ::commlib::__private::LevelGate:: < Side > ::selector(side),
                    ::commlib::__private::LevelGate:: < u8 > ::selector(index)
                ],
            )
        }
        /// Subscribes to `sensors.bumper`.
        pub fn bumper(&self) -> ::commlib::topic::Subscribe<Bump, ()> {
            __Gate_bumper::subscribe(&self.inner, &__TOPIC_bumper, ::std::vec![])
        }
    }
    #[automatically_derived]
    impl ::core::clone::Clone for SensorsSubscriber {
        fn clone(&self) -> Self {
            Self {
                inner: ::core::clone::Clone::clone(&self.inner),
            }
        }
    }
    #[automatically_derived]
    impl ::core::fmt::Debug for SensorsSubscriber {
        fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
            f.debug_struct("SensorsSubscriber").finish_non_exhaustive()
        }
    }
    impl<__S: Sensors> SensorsHandler<__S> {
        /// Makes a service out of a handler; give it to `Node::serve` to take messages on `sensors.…`.
        #[must_use]
        pub fn new(service: __S) -> Self {
            Self { service }
        }
        /// The contract of [`Sensors`]: its name, methods and schemas.
        #[must_use]
        pub fn contract() -> ::commlib::Contract {
            __contract()
        }
    }
    #[automatically_derived]
    impl<__S> ::core::fmt::Debug for SensorsHandler<__S> {
        fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
            f.debug_struct("SensorsHandler").finish_non_exhaustive()
        }
    }
    impl<__S: Sensors> ::commlib::Serve for SensorsHandler<__S> {
        type Builder = ::commlib::topic::ServeTopics;
        fn serve_on(self, node: &::commlib::Node) -> ::commlib::topic::ServeTopics {
            ::commlib::__private::serve_topics(node, ::std::sync::Arc::new(self))
        }
    }
    impl<__S: Sensors> ::commlib::__private::TopicService for SensorsHandler<__S> {
        fn descriptor(&self) -> &'static ::commlib::__private::TopicsDescriptor {
            &__DESCRIPTOR
        }
        fn handle<'a>(
            &'a self,
            topic: &'a str,
            ctx: &'a ::commlib::MessageContext,
            levels: &'a [::std::string::String],
            body: &'a [u8],
        ) -> ::commlib::__private::BoxFuture<
            'a,
            ::core::result::Result<(), ::commlib::__private::Failure>,
        > {
            match topic {
                "sonar" => {
                    ::std::boxed::Box::pin(async move {
                        let side = match ::commlib::__private::LevelGate::<
                            Side,
                        >::from_level(levels, 0usize) {
                            ::core::result::Result::Ok(value) => value,
                            ::core::result::Result::Err(failure) => {
                                return ::core::result::Result::Err(failure);
                            }
                        };
                        let index = match ::commlib::__private::LevelGate::<
                            u8,
                        >::from_level(levels, 1usize) {
                            ::core::result::Result::Ok(value) => value,
                            ::core::result::Result::Err(failure) => {
                                return ::core::result::Result::Err(failure);
                            }
                        };
                        let reading = match __Gate_sonar::decode(ctx.codec(), body) {
                            ::core::result::Result::Ok(value) => value,
                            ::core::result::Result::Err(failure) => {
                                return ::core::result::Result::Err(failure);
                            }
                        };
                        <__S as Sensors>::sonar(&self.service, index, ctx, side, reading)
                            .await;
                        ::core::result::Result::Ok(())
                    })
                }
                "bumper" => {
                    ::std::boxed::Box::pin(async move {
                        let hit = match __Gate_bumper::decode(ctx.codec(), body) {
                            ::core::result::Result::Ok(value) => value,
                            ::core::result::Result::Err(failure) => {
                                return ::core::result::Result::Err(failure);
                            }
                        };
                        <__S as Sensors>::bumper(&self.service, hit)
                            .await
                            .map_err(|error| ::commlib::__private::not_handled(&error))
                    })
                }
                _ => ::commlib::__private::unknown_topic(topic),
            }
        }
    }
};
