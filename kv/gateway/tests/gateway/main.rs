//! The gateway, compared with etcd's own and by itself.

mod in_process;
mod same_as_etcd;
mod support;
