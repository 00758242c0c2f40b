//! Uploads a file to a bucket unless its object exists already, and reads the object back in either case.
//!
//! It must never report an object as good that it has not read back and compared.

use super::client::Client;
use super::error::RequestError;
use super::object::{ObjectHead, ObjectReader};
use super::parts::fetch_in_order;
use super::protocol::{Protocol, Upload, take_back};
use crate::error::Refusal;
use crate::progress::{Progress, Sink};
use crate::store::NameTaken;
use crate::system::digest::hex;
use anyhow::{Context, Error, Result, bail, ensure};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Uploads the file unless its object exists already, and reads the object back in either case.
///
/// # Errors
/// Refuses a name that holds another object. The cause is [`NameTaken`].
pub(in crate::store) fn run(
    protocol: &dyn Protocol,
    client: &Arc<Client>,
    upload: &Upload<'_>,
    progress: Sink<'_>,
) -> Result<()> {
    let Upload { url, name, .. } = *upload;
    let head = || {
        let head = protocol.head(client, &upload.key);
        head.with_context(|| format!("reading the attributes of {url}{name}"))
    };
    let existing = head()?;
    let is_new = existing.is_none();
    let is_ours = match existing {
        Some(head) => upload.is_same(&head),
        None => {
            send(protocol, client, upload, progress).with_context(|| format!("uploading {name} to {url}"))?
        }
    };
    if !is_ours {
        return Err(taken(upload));
    }
    progress(Progress::Step("reading back the uploaded archive"));
    let head = head()?.with_context(|| format!("{url}{name} does not exist"))?;
    protocol.check_stored(client, upload, &head, is_new)?;
    if read_back(client, upload, &head, progress)? {
        return Ok(());
    }
    if !is_new {
        // An earlier run created it, and may have read it back: this run may have read wrong bytes.
        return Err(taken(upload));
    }
    // The object is labelled with a hash that its bytes do not have, so it must not keep this name.
    let outcome = take_back(protocol, client, &head);
    bail!("{url}{name} differs after reading it back; {outcome}")
}

/// The error of a name that holds another object.
fn taken(upload: &Upload<'_>) -> Error {
    let Upload { url, name, .. } = upload;
    Error::new(NameTaken).context(Refusal::new(
        format!("{url} already holds a different {name}, which is not overwritten"),
        "inspect that object, or set another folder for this destination",
    ))
}

/// Sends the file. Returns `false` if another program has created an object with this name in the meantime.
fn send(protocol: &dyn Protocol, client: &Client, upload: &Upload<'_>, progress: Sink<'_>) -> Result<bool> {
    let error = match protocol.send(client, upload, progress) {
        Ok(is_ours) => return Ok(is_ours),
        Err(error) => error,
    };
    // The response may have been lost after the request was carried out.
    match protocol.head(client, &upload.key) {
        Ok(Some(head)) if upload.is_same(&head) => Ok(true),
        Ok(Some(_)) if error.downcast_ref().is_some_and(RequestError::is_precondition_failed) => Ok(false),
        _ => Err(error),
    }
}

/// Reads the object back. Returns whether its bytes are those of the file, not only the checksum that the server reports.
fn read_back(
    client: &Arc<Client>,
    upload: &Upload<'_>,
    head: &ObjectHead,
    progress: Sink<'_>,
) -> Result<bool> {
    let (url, name, size) = (upload.url, upload.name, head.blob.size);
    ensure!(size == upload.size, "{url}{name} has {size} bytes of {}", upload.size);
    let object = ObjectReader::new(client, upload.key.clone(), size, head.blob.etag.clone());
    let (mut hash, mut done) = (Sha256::new(), 0);
    let fetched = fetch_in_order(&object, &mut |part| {
        hash.update(part);
        done += part.len() as u64;
        progress(Progress::Bytes { done, expected: Some(size) });
    });
    fetched.with_context(|| format!("reading {url}{name} back"))?;
    Ok(hex(&hash.finalize()) == upload.sha256)
}
