//! The wire: messages and services of the build API, made from the `.proto` files in this crate.
//!
//! Nothing here decides anything. Types keep the shape they have on the wire; other crates turn them
//! into their own types where a message comes in. [`canonical`] is the one exception to "generated
//! only": some messages are identified by a hash over their bytes, and it produces those bytes. [`names`] shows names of
//! files, which need not be text, as the paths that they are.
//!
//! | module | package | what |
//! |---|---|---|
//! | [`control`] | `moby.buildkit.v1` | the daemon's service: solve, status, session, history |
//! | [`types`] | `moby.buildkit.v1.types` | worker records |
//! | [`gateway`] | `moby.buildkit.v1.frontend` | the bridge used by frontends and clients |
//! | [`pb`] | `pb` | the build graph |
//! | [`sourcepolicy`], [`policysession`] | `moby.buildkit.v1.sourcepolicy[.policysession]` | source policies |
//! | [`apicaps`] | `moby.buildkit.v1.apicaps` | capabilities |
//! | [`errdefs`], [`stack`], [`rpc`] | `errdefs`, `stack`, `google.rpc` | error details |
//! | [`filesync`], [`fsutil`] | `moby.filesync.v1`, `fsutil.types` | files and registry credentials of a client |
//! | [`secrets`], [`sshforward`], [`upload`], [`exporter`] | `moby.….v1` | other services of a client |
//! | [`explain`] | `cairn.v1` | Cairn's own service: why steps ran |
//! | [`content`], [`health`], [`otlp`], [`otlp_trace`] | containerd, gRPC, OpenTelemetry | services of other projects |

pub mod canonical;
pub mod json;
pub mod names;

/// All packages, as an encoded `google.protobuf.FileDescriptorSet`: for telling others what messages look like.
pub const FILE_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Generated code refers to other packages by relative paths, so its modules nest like the packages do.
#[allow(
    missing_docs,
    clippy::all,
    clippy::use_self,
    clippy::large_futures,
    clippy::allow_attributes_without_reason,
    unreachable_pub,
    let_underscore_drop,
    rustdoc::all,
    reason = "generated code"
)]
mod generated {
    macro_rules! package {
        ($name:literal) => {
            tonic::include_proto!($name);
        };
    }

    pub mod moby {
        pub mod buildkit {
            pub mod v1 {
                package!("moby.buildkit.v1");
                pub mod types {
                    package!("moby.buildkit.v1.types");
                }
                pub mod frontend {
                    package!("moby.buildkit.v1.frontend");
                }
                pub mod apicaps {
                    package!("moby.buildkit.v1.apicaps");
                }
                pub mod sourcepolicy {
                    package!("moby.buildkit.v1.sourcepolicy");
                    pub mod policysession {
                        package!("moby.buildkit.v1.sourcepolicy.policysession");
                    }
                }
            }
            pub mod secrets {
                pub mod v1 {
                    package!("moby.buildkit.secrets.v1");
                }
            }
        }
        pub mod filesync {
            pub mod v1 {
                package!("moby.filesync.v1");
            }
        }
        pub mod sshforward {
            pub mod v1 {
                package!("moby.sshforward.v1");
            }
        }
        pub mod upload {
            pub mod v1 {
                package!("moby.upload.v1");
            }
        }
        pub mod exporter {
            pub mod v1 {
                package!("moby.exporter.v1");
            }
        }
    }
    pub mod cairn {
        pub mod v1 {
            package!("cairn.v1");
        }
    }
    pub mod pb {
        package!("pb");
    }
    pub mod errdefs {
        package!("errdefs");
    }
    pub mod stack {
        package!("stack");
    }
    pub mod fsutil {
        pub mod types {
            package!("fsutil.types");
        }
    }
    pub mod containerd {
        pub mod services {
            pub mod content {
                pub mod v1 {
                    package!("containerd.services.content.v1");
                }
            }
        }
    }
    pub mod grpc {
        pub mod health {
            pub mod v1 {
                package!("grpc.health.v1");
            }
        }
    }
    pub mod google {
        pub mod rpc {
            package!("google.rpc");
        }
    }
    pub mod opentelemetry {
        pub mod proto {
            pub mod collector {
                pub mod trace {
                    pub mod v1 {
                        package!("opentelemetry.proto.collector.trace.v1");
                    }
                }
            }
            pub mod trace {
                pub mod v1 {
                    package!("opentelemetry.proto.trace.v1");
                }
            }
        }
    }
}

pub use generated::cairn::v1 as explain;
pub use generated::containerd::services::content::v1 as content;
pub use generated::errdefs;
pub use generated::fsutil::types as fsutil;
pub use generated::google::rpc;
pub use generated::grpc::health::v1 as health;
pub use generated::moby::buildkit::secrets::v1 as secrets;
pub use generated::moby::buildkit::v1 as control;
pub use generated::moby::buildkit::v1::apicaps;
pub use generated::moby::buildkit::v1::frontend as gateway;
pub use generated::moby::buildkit::v1::sourcepolicy;
pub use generated::moby::buildkit::v1::sourcepolicy::policysession;
pub use generated::moby::buildkit::v1::types;
pub use generated::moby::exporter::v1 as exporter;
pub use generated::moby::filesync::v1 as filesync;
pub use generated::moby::sshforward::v1 as sshforward;
pub use generated::moby::upload::v1 as upload;
pub use generated::opentelemetry::proto::collector::trace::v1 as otlp;
pub use generated::opentelemetry::proto::trace::v1 as otlp_trace;
pub use generated::pb;
pub use generated::stack;
