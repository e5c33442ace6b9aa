//! Hears of changes in folders of the host. One inotify instance serves the whole daemon: a user
//! may have 128 of them (`fs.inotify.max_user_instances`), and a host has more pods.

use rustix::{
    fs::inotify::{self, CreateFlags, Reader, WatchFlags},
    io::Errno,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    mem::MaybeUninit,
    os::fd::{AsRawFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// An event has 16 bytes and a name of at most 256.
const READ_BYTES: usize = 4096;

/// All watches of this process; clones are the same ones.
#[derive(Clone, Default)]
pub struct Watches(Arc<Mutex<Option<Instance>>>);

struct Instance {
    inotify: Arc<OwnedFd>,
    /// One folder has one watch, however many want to hear of it.
    listeners: BTreeMap<i32, Vec<Arc<Notify>>>,
}

/// Somebody who wants to hear of some folders; dropped, it does not any more.
pub struct Listener {
    watches: Watches,
    news: Arc<Notify>,
    folders: BTreeSet<i32>,
}

impl Watches {
    /// Hears of nothing yet.
    pub fn listener(&self) -> Listener {
        Listener {
            watches: self.clone(),
            news: Arc::default(),
            folders: BTreeSet::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, Option<Instance>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread of its own sleeps in the reading; it goes with the process.
    fn begin(&self) -> Result<Instance, Errno> {
        let inotify = Arc::new(inotify::init(CreateFlags::CLOEXEC)?);
        let (watches, source) = (self.clone(), inotify.clone());
        std::thread::spawn(move || {
            let mut buffer = [MaybeUninit::uninit(); READ_BYTES];
            let mut reader = Reader::new(&*source, &mut buffer);
            loop {
                match reader.next() {
                    Ok(event) => watches.tell(event.wd()),
                    Err(Errno::INTR) => {}
                    // Whoever listens looks again from time to time.
                    Err(_) => return,
                }
            }
        });
        Ok(Instance {
            inotify,
            listeners: BTreeMap::new(),
        })
    }

    /// A watch of -1: the queue ran over, and anything may have happened.
    fn tell(&self, folder: i32) {
        if let Some(instance) = &*self.state() {
            let all = instance.listeners.iter();
            let heard = all.filter(|(watched, _)| folder == -1 || **watched == folder);
            for news in heard.flat_map(|(_, listeners)| listeners) {
                news.notify_one();
            }
        }
    }
}

impl Listener {
    /// Hears of these folders from now on, and of no others.
    ///
    /// # Errors
    /// The kernel has no more watches to give.
    pub fn listen(&mut self, folders: &[OwnedFd]) -> Result<(), Errno> {
        let mut state = self.watches.state();
        let instance = match &mut *state {
            Some(instance) => instance,
            none => none.insert(self.watches.begin()?),
        };
        let mut wanted = BTreeSet::new();
        for folder in folders {
            let watched = instance.watch(folder)?;
            let listeners = instance.listeners.entry(watched).or_default();
            if !listeners.iter().any(|news| Arc::ptr_eq(news, &self.news)) {
                listeners.push(self.news.clone());
            }
            wanted.insert(watched);
            self.folders.insert(watched);
        }
        for gone in self.folders.difference(&wanted) {
            instance.forget(*gone, &self.news);
        }
        self.folders = wanted;
        Ok(())
    }

    /// Answers when something changed since the last time that it answered.
    pub async fn changed(&self) {
        self.news.notified().await;
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(instance) = &mut *self.watches.state() {
            for folder in &self.folders {
                instance.forget(*folder, &self.news);
            }
        }
    }
}

impl Instance {
    /// By descriptor: a path could lead elsewhere by now.
    fn watch(&self, folder: &OwnedFd) -> Result<i32, Errno> {
        let path = format!("/proc/self/fd/{}", folder.as_raw_fd());
        let what = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MODIFY
            | WatchFlags::ATTRIB
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVE_SELF
            | WatchFlags::DELETE_SELF
            | WatchFlags::ONLYDIR;
        inotify::add_watch(&*self.inotify, path, what)
    }

    fn forget(&mut self, folder: i32, news: &Arc<Notify>) {
        let Some(listeners) = self.listeners.get_mut(&folder) else {
            return;
        };
        listeners.retain(|known| !Arc::ptr_eq(known, news));
        if listeners.is_empty() {
            self.listeners.remove(&folder);
            // A folder that is gone took its watch along.
            let _ = inotify::remove_watch(&*self.inotify, folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, path::Path, time::Duration};
    use tokio::time::timeout;

    const SOON: Duration = Duration::from_secs(10);

    fn open(path: &Path) -> OwnedFd {
        fs::File::open(path).unwrap().into()
    }

    fn watched(watches: &Watches) -> usize {
        watches.state().as_ref().unwrap().listeners.len()
    }

    #[tokio::test]
    async fn each_of_two_who_listen_to_one_folder_hears_of_its_changes() {
        let (folder, watches) = (tempfile::tempdir().unwrap(), Watches::default());
        let [mut one, mut two] = [watches.listener(), watches.listener()];
        one.listen(&[open(folder.path())]).unwrap();
        two.listen(&[open(folder.path())]).unwrap();
        assert_eq!(watched(&watches), 1);

        fs::write(folder.path().join("new"), "").unwrap();
        timeout(SOON, one.changed()).await.unwrap();
        timeout(SOON, two.changed()).await.unwrap();

        drop(one);
        fs::write(folder.path().join("other"), "").unwrap();
        timeout(SOON, two.changed()).await.unwrap();
        drop(two);
        assert_eq!(watched(&watches), 0);
    }

    #[tokio::test]
    async fn what_is_not_listened_to_any_more_is_not_watched() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let watches = Watches::default();
        let mut listener = watches.listener();
        listener
            .listen(&[open(first.path()), open(second.path())])
            .unwrap();
        assert_eq!(watched(&watches), 2);

        listener.listen(&[open(second.path())]).unwrap();

        assert_eq!(watched(&watches), 1);
        fs::write(second.path().join("new"), "").unwrap();
        timeout(SOON, listener.changed()).await.unwrap();
    }
}
