//! Reads certificates and private keys from PEM files; an error names what is wrong with the file and what to do.
//! Certificates are not verified here: dates, names and signatures are checked by the far end.

use std::io;
use std::path::Path;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The certificates of a file, at least one, in its order.
///
/// # Errors
/// A sentence: the file, what is wrong with it, what to do.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) if has(&text, "PRIVATE KEY-----") => Err(format!(
            "{} holds a private key and no certificate: were the two files named the wrong way round?",
            path.display()
        )),
        Ok(_) => Err(format!(
            "{0} holds no certificate in PEM form, which begins with -----BEGIN CERTIFICATE-----; of one in DER form \
             `openssl x509 -inform der -in {0}` makes one",
            path.display()
        )),
        Err(error) => Err(damaged(path, &error)),
    }
}

/// The private key of a file.
///
/// # Errors
/// A sentence: the file, what is wrong with it, what to do.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let text = read(path)?;
    match PrivateKeyDer::from_pem_slice(&text) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) if has(&text, "BEGIN ENCRYPTED PRIVATE KEY-----") => Err(format!(
            "the private key in {0} is encrypted, and nobody is there at start to type its passphrase: `openssl pkey -in {0}` \
             decrypts it; let only the gate's user read the result",
            path.display()
        )),
        Err(pem::Error::NoItemsFound) if has(&text, "BEGIN CERTIFICATE-----") => Err(format!(
            "{} holds a certificate and no private key: were the two files named the wrong way round?",
            path.display()
        )),
        Err(pem::Error::NoItemsFound) => Err(format!(
            "{0} holds no private key in PEM form, which begins with -----BEGIN PRIVATE KEY-----; of one in another form \
             `openssl pkey -in {0}` makes one",
            path.display()
        )),
        Err(error) => Err(damaged(path, &error)),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| {
        let advice = match error.kind() {
            io::ErrorKind::NotFound => "; name a file that exists: a relative path begins at the file of gates",
            io::ErrorKind::PermissionDenied => {
                "; let the user that runs the gate read it, and nobody else if it is a key"
            }
            io::ErrorKind::IsADirectory => "; name a file in it",
            _ => "",
        };
        format!("cannot read {}: {error}{advice}", path.display())
    })
}

fn has(text: &[u8], message: &str) -> bool {
    text.windows(message.len()).any(|window| window == message.as_bytes())
}

fn damaged(path: &Path, error: &pem::Error) -> String {
    let what = match error {
        pem::Error::MissingSectionEnd { .. } => "the line -----END ...----- is missing".to_owned(),
        pem::Error::Base64Decode(_) => "what stands between its -----BEGIN and -----END lines is no base64".to_owned(),
        error => error.to_string(),
    };
    format!("{} is damaged: {what}; copy it anew", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_file_and_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        let half = |text: &str| text[..text.len() / 2].to_owned();
        let bent = |text: &str| text.replacen("\nM", "\n!", 1);
        let write = |name: &str, text: &[u8]| std::fs::write(directory.path().join(name), text).unwrap();
        for (name, text) in [
            ("certificate", certificate.as_bytes()),
            ("key", key.as_bytes()),
            ("encrypted", encrypted.as_bytes()),
            ("half.certificate", half(&certificate).as_bytes()),
            ("half.key", half(&key).as_bytes()),
            ("bent.certificate", bent(&certificate).as_bytes()),
            ("der", made.cert.der()),
            ("empty", b""),
        ] {
            write(name, text);
        }
        std::fs::create_dir(directory.path().join("directory")).unwrap();
        let path = |name: &str| directory.path().join(name);
        assert_eq!(certificates(&path("certificate")).map(|found| found.len()), Ok(1));
        assert!(private_key(&path("key")).is_ok());
        for (name, message) in [
            ("missing", "a file that exists"),
            ("directory", "name a file in it"),
            ("key", "the wrong way round"),
            ("der", "openssl x509 -inform der"),
            ("empty", "no certificate in PEM form"),
            ("half.certificate", "copy it anew"),
            ("bent.certificate", "copy it anew"),
        ] {
            let said = certificates(&path(name)).unwrap_err();
            assert!(said.contains(message) && said.contains(&path(name).display().to_string()), "{name}: {said}");
        }
        for (name, message) in [
            ("missing", "a file that exists"),
            ("directory", "name a file in it"),
            ("certificate", "the wrong way round"),
            ("encrypted", "passphrase"),
            ("der", "openssl pkey -in"),
            ("empty", "no private key in PEM form"),
            ("half.key", "copy it anew"),
        ] {
            let said = private_key(&path(name)).unwrap_err();
            assert!(said.contains(message) && said.contains(&path(name).display().to_string()), "{name}: {said}");
        }
    }
}
