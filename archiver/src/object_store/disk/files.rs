//! The file operations of the disk store. They block.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use backscroll_shard::model::Timestamp;
use bytes::Bytes;
use tempfile::TempPath;

use super::address::SECRET_BYTES;
use crate::object_store::key::{KeyPrefix, ObjectKey};
use crate::object_store::{ListPage, ObjectMeta, PAGE_OBJECTS, PageMark, UnfinishedUpload, Upload};

/// The folder of what is being written. No key begins with a dot.
const UNFINISHED: &str = ".unfinished";

/// What the folder with the parts of an upload adds to the name of its file.
const PARTS: &str = ".parts";

/// The file with the secret that addresses are signed with.
const SECRET: &str = ".secret";

/// Stands for `/` in the name of what is being written. No key has it.
const SLASH: &str = "+";

/// The folder.
#[derive(Debug)]
pub(super) struct Files {
    root: PathBuf,
}

impl Files {
    pub(super) fn open(root: PathBuf) -> io::Result<Self> {
        // Relative paths are of the moment when the store is opened.
        let root = std::path::absolute(root)?;
        create_folders(&root.join(UNFINISHED))?;
        Ok(Self { root })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The secret that addresses are signed with, which is made if there is none.
    pub(super) fn secret(&self) -> io::Result<Vec<u8>> {
        let path = self.root.join(SECRET);
        if let Err(error) = fs::symlink_metadata(&path) {
            if error.kind() != ErrorKind::NotFound {
                return Err(error);
            }
            let name = format!("secret.{:032x}", rand::random::<u128>());
            let temporary = TempPath::try_from_path(self.root.join(UNFINISHED).join(name))?;
            let mut file = new_file(&temporary)?;
            file.write_all(&rand::random::<[u8; SECRET_BYTES]>())?;
            file.sync_all()?;
            // Another process may have made one meanwhile.
            if let Err(failure) = temporary.persist_noclobber(&path)
                && failure.error.kind() != ErrorKind::AlreadyExists
            {
                return Err(failure.error);
            }
            sync_folder(&self.root)?;
        }
        let secret = fs::read(&path)?;
        if secret.len() == SECRET_BYTES {
            return Ok(secret);
        }
        let what = format!("{} has not {SECRET_BYTES} bytes; delete it", path.display());
        Err(io::Error::new(ErrorKind::NotADirectory, what))
    }

    /// A file for the content of an object, under another name; it is removed however this ends, unless it gets the object's.
    pub(super) fn begin(&self, key: ObjectKey) -> io::Result<(File, TempPath)> {
        let temporary = TempPath::try_from_path(self.unfinished_path(&new_upload(key)))?;
        Ok((new_file(&temporary)?, temporary))
    }

    /// Gives what was written and synced its own name, in place of what may be there.
    pub(super) fn replace(&self, written: TempPath, key: &ObjectKey) -> io::Result<()> {
        let path = self.path(key);
        let folder = path.parent().unwrap_or(&self.root);
        create_folders(folder)?;
        written.persist(&path).map_err(|error| error.error)?;
        sync_folder(folder)
    }

    pub(super) fn open_object(&self, key: &ObjectKey) -> io::Result<(File, u64)> {
        let file = File::open(self.path(key))?;
        let meta = file.metadata()?;
        match meta.is_file() {
            true => Ok((file, meta.len())),
            false => Err(io::Error::new(ErrorKind::NotFound, "is a folder")),
        }
    }

    /// The bytes are copied, by the kernel: a second name for the same file would let a part that is still being received
    /// change the copy.
    pub(super) fn copy(&self, from: &ObjectKey, to: &ObjectKey) -> io::Result<()> {
        let (mut source, size) = self.open_object(from)?;
        if let Ok(there) = self.meta(to.clone()) {
            return match there.size == size {
                true => Ok(()),
                false => Err(ErrorKind::AlreadyExists.into()),
            };
        }
        let (mut file, temporary) = self.begin(to.clone())?;
        io::copy(&mut source, &mut file)?;
        file.sync_all()?;
        self.publish(temporary, to)
    }

    pub(super) fn create(&self, key: &ObjectKey, content: &[u8]) -> io::Result<()> {
        let (mut file, temporary) = self.begin(key.clone())?;
        file.write_all(content)?;
        file.sync_all()?;
        drop(file);
        match self.publish(temporary, key) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists && self.has(key, content)? => {
                Ok(())
            }
            result => result,
        }
    }

    /// Gives what was written its own name, for good.
    fn publish(&self, written: TempPath, key: &ObjectKey) -> io::Result<()> {
        let path = self.path(key);
        let folder = path.parent().unwrap_or(&self.root);
        create_folders(folder)?;
        written
            .persist_noclobber(&path)
            .map_err(|error| error.error)?;
        sync_folder(folder)
    }

    /// Whether the object has this content.
    fn has(&self, key: &ObjectKey, content: &[u8]) -> io::Result<bool> {
        let path = self.path(key);
        if fs::symlink_metadata(&path)?.len() != content.len() as u64 {
            return Ok(false);
        }
        Ok(fs::read(path)? == content)
    }

    pub(super) fn read(&self, key: &ObjectKey, range: Range<u64>) -> io::Result<Bytes> {
        let mut file = File::open(self.path(key))?;
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::new(ErrorKind::NotFound, "is a folder"));
        }
        if range.end > meta.len() {
            let detail = format!("bytes {} to {} of {}", range.start, range.end, meta.len());
            return Err(io::Error::new(ErrorKind::UnexpectedEof, detail));
        }
        let length =
            usize::try_from(range.end - range.start).map_err(|_| ErrorKind::InvalidInput)?;
        let mut content = vec![0; length];
        file.seek(SeekFrom::Start(range.start))?;
        file.read_exact(&mut content)?;
        Ok(content.into())
    }

    pub(super) fn meta(&self, key: ObjectKey) -> io::Result<ObjectMeta> {
        let meta = fs::metadata(self.path(&key))?;
        if !meta.is_file() {
            return Err(io::Error::new(ErrorKind::NotFound, "is a folder"));
        }
        Ok(ObjectMeta {
            key,
            size: meta.len(),
            created_at: timestamp(meta.modified()?),
        })
    }

    pub(super) fn delete(&self, key: &ObjectKey) -> io::Result<()> {
        let path = self.path(key);
        match fs::remove_file(&path) {
            Ok(()) => sync_folder(path.parent().unwrap_or(&self.root)),
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn list(&self, prefix: &KeyPrefix, after: &str) -> io::Result<ListPage> {
        let mut listing = Listing {
            prefix: prefix.as_str(),
            after,
            page: ListPage::default(),
        };
        listing.walk(&self.root, "")?;
        Ok(listing.page)
    }

    pub(super) fn start(&self, key: ObjectKey) -> io::Result<Upload> {
        let upload = new_upload(key);
        new_file(&self.unfinished_path(&upload))?;
        Ok(upload)
    }

    pub(super) fn write_part(
        &self,
        upload: &Upload,
        (number, offset): (u32, u64),
        content: &[u8],
    ) -> io::Result<()> {
        let mut file = self.open_part(upload, number)?;
        file.seek(SeekFrom::Start(offset))?;
        file.write_all(content)?;
        // Each part is synced with the part: a file of many parts would make its end wait for all of them.
        file.sync_data()?;
        self.finish_part(upload, number, content.len() as u64)
    }

    /// The file of an upload, for a part that from now on does not count. It is locked together with other parts: the end of
    /// the upload has it alone, so that nothing is written once it is an object.
    pub(super) fn open_part(&self, upload: &Upload, number: u32) -> io::Result<File> {
        let path = self.unfinished_path(upload);
        let file = OpenOptions::new().write(true).open(&path)?;
        let is_ending = matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock));
        if is_ending || fs::metadata(&path)?.ino() != file.metadata()?.ino() {
            return Err(ErrorKind::NotFound.into());
        }
        for (present, bytes) in self.part_files(upload)? {
            if present == number {
                fs::remove_file(self.parts_path(upload).join(format!("{present}.{bytes}")))?;
            }
        }
        Ok(file)
    }

    /// From now on the part, which was written and synced, counts.
    pub(super) fn finish_part(&self, upload: &Upload, number: u32, bytes: u64) -> io::Result<()> {
        let folder = self.parts_path(upload);
        create_folders(&folder)?;
        let counted = folder.join(format!("{number}.{bytes}"));
        File::create(counted).map(drop)
    }

    /// The numbers and sizes of an upload's parts, in order.
    pub(super) fn parts(&self, upload: &Upload) -> io::Result<Vec<(u32, u64)>> {
        fs::symlink_metadata(self.unfinished_path(upload))?;
        self.part_files(upload)
    }

    fn part_files(&self, upload: &Upload) -> io::Result<Vec<(u32, u64)>> {
        let entries = match fs::read_dir(self.parts_path(upload)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut parts = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let part = name.to_str().and_then(|name| name.split_once('.'));
            if let Some((number, bytes)) = part
                && let (Ok(number), Ok(bytes)) = (number.parse(), bytes.parse())
            {
                parts.push((number, bytes));
            }
        }
        parts.sort_unstable();
        Ok(parts)
    }

    fn forget_parts(&self, upload: &Upload) -> io::Result<()> {
        match fs::remove_dir_all(self.parts_path(upload)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    pub(super) fn complete(&self, upload: &Upload, size: u64) -> io::Result<()> {
        let path = self.unfinished_path(upload);
        let file = match OpenOptions::new().write(true).open(&path) {
            Ok(file) => file,
            // It was completed before, or aborted.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let done = self
                    .meta(upload.key.clone())
                    .is_ok_and(|meta| meta.size == size);
                self.forget_parts(upload)?;
                return if done { Ok(()) } else { Err(error) };
            }
            Err(error) => return Err(error),
        };
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            let what = "a part of it is still being written";
            return Err(io::Error::new(ErrorKind::ResourceBusy, what));
        }
        let written = file.metadata()?.len();
        // What is behind the last part is of one that broke off.
        if written > size {
            file.set_len(size)?;
        }
        if written < size {
            return Err(io::Error::new(
                ErrorKind::InvalidData,
                format!("{written} bytes were written, not {size}"),
            ));
        }
        file.sync_all()?;
        let mut unfinished = TempPath::try_from_path(path)?;
        unfinished.disable_cleanup(true);
        self.publish(unfinished, &upload.key)?;
        drop(file); // and its lock
        self.forget_parts(upload)
    }

    pub(super) fn abort(&self, upload: &Upload) -> io::Result<()> {
        self.forget_parts(upload)?;
        match fs::remove_file(self.unfinished_path(upload)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    pub(super) fn unfinished(&self, after: Option<&Upload>) -> io::Result<Vec<UnfinishedUpload>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.root.join(UNFINISHED))? {
            let entry = entry?;
            let Some(upload) = entry.file_name().to_str().and_then(upload_of) else {
                continue;
            };
            // One that is finished meanwhile is none.
            let Ok(meta) = entry.metadata() else { continue };
            if after.is_none_or(|after| upload > *after) {
                found.push(UnfinishedUpload {
                    upload,
                    started_at: timestamp(meta.modified()?),
                });
            }
        }
        found.sort_by(|a, b| a.upload.cmp(&b.upload));
        found.truncate(PAGE_OBJECTS);
        Ok(found)
    }

    fn path(&self, key: &ObjectKey) -> PathBuf {
        self.root.join(key.as_str())
    }

    fn unfinished_path(&self, upload: &Upload) -> PathBuf {
        // An id that came from elsewhere must not name another file.
        let id: String = upload.id.chars().filter(char::is_ascii_hexdigit).collect();
        self.root
            .join(UNFINISHED)
            .join(format!("{}.{id}", upload.key.as_str().replace('/', SLASH)))
    }

    /// The folder with an empty file for each part that counts, named by its number and size.
    fn parts_path(&self, upload: &Upload) -> PathBuf {
        let mut path = self.unfinished_path(upload).into_os_string();
        path.push(PARTS);
        path.into()
    }
}

fn new_upload(key: ObjectKey) -> Upload {
    Upload {
        key,
        id: format!("{:032x}", rand::random::<u128>()),
    }
}

/// The upload whose file has this name.
fn upload_of(name: &str) -> Option<Upload> {
    let (key, id) = name.rsplit_once('.')?;
    let id_fits = id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit());
    let key = ObjectKey::new(key.replace(SLASH, "/")).ok()?;
    id_fits.then(|| Upload {
        key,
        id: id.to_owned(),
    })
}

fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// Makes `folder` and those it is in, each synced into its own folder.
fn create_folders(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = folder
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("/"));
    create_folders(parent)?;
    match fs::create_dir(folder) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_folder(parent),
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn timestamp(time: SystemTime) -> Timestamp {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// A page that is being collected.
struct Listing<'a> {
    prefix: &'a str,
    after: &'a str,
    page: ListPage,
}

impl Listing<'_> {
    /// Adds the objects in `folder`, whose keys begin with `start`, until the page is full.
    fn walk(&mut self, folder: &Path, start: &str) -> io::Result<()> {
        for name in sorted_names(folder, start)? {
            if self.page.next.is_some() {
                break;
            }
            let path = folder.join(&name);
            let key = format!("{start}{name}");
            if name.ends_with('/') {
                let wanted = key.starts_with(self.prefix) || self.prefix.starts_with(&key);
                let behind = key.as_str() < self.after && !self.after.starts_with(&key);
                if wanted && !behind {
                    self.walk(&path, &key)?;
                }
            } else if key.starts_with(self.prefix) && key.as_str() > self.after {
                self.add(&path, key)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, path: &Path, key: String) -> io::Result<()> {
        let Ok(key) = ObjectKey::new(key) else {
            return Ok(());
        };
        if let (PAGE_OBJECTS, Some(last)) = (self.page.objects.len(), self.page.objects.last()) {
            self.page.next = Some(PageMark {
                last_key: last.key.as_str().to_owned(),
                token: String::new(),
            });
            return Ok(());
        }
        match fs::symlink_metadata(path) {
            Ok(meta) => self.page.objects.push(ObjectMeta {
                key,
                size: meta.len(),
                created_at: timestamp(meta.modified()?),
            }),
            // It was deleted meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// The names in a folder, a folder's with a slash at its end, in the order of the keys that they begin. What is neither
/// a file nor a folder, and what no key can begin with, is left out.
fn sorted_names(folder: &Path, start: &str) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound && !start.is_empty() => {
            return Ok(Vec::new());
        }
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        let Ok(mut name) = entry.file_name().into_string() else {
            continue;
        };
        let kind = entry.file_type()?;
        if kind.is_dir() {
            name.push('/');
        }
        if (kind.is_dir() || kind.is_file()) && KeyPrefix::new(format!("{start}{name}")).is_ok() {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}
