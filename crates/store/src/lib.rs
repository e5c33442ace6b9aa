//! The one owner of sled: records as bytes under keys, written so that they survive kill -9.
//!
//! The room does not know what a record means. It orders writes, groups what waits into one
//! flush, answers each when it is durable, upgrades old stores step by step, and moves a damaged
//! one aside. The handle ([`SledStore`]) outlives the actor that lends it out.

pub mod fake;

mod actor;
mod disk;
mod driver;
mod error;
mod head;
mod holder;
mod incomplete;
mod open;
mod schema;

pub use actor::{GetFigures, Scan, Store, StoreRecords, Write};
pub use disk::{CHANGES_MAX, Disk, Durability, Figures, KEY_BYTES_MAX, VALUE_BYTES_MAX};
pub use driver::SledStore;
pub use error::{Error, Step};
pub use holder::Holder;
pub use incomplete::Incomplete;
pub use open::{Damage, Damaged, Opened, open};
pub use schema::{Schema, Upgrade, UpgradeRefused};
