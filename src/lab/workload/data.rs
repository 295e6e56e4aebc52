//! Generated files, and the checksum of a directory.
//!
//! The bytes come from a seed and do not compress.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::Path,
};

use rand::{RngCore, SeedableRng, rngs::SmallRng};
use ring::digest;

/// Bytes of each file except the last.
const FILE: u64 = 16 << 20;

/// Fills `directory` with files of `bytes` in total.
pub fn generate(directory: &Path, bytes: u64, seed: u64) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut buffer = vec![0; 1 << 20];
    let mut left = bytes;
    for number in 0.. {
        if left == 0 {
            break;
        }
        let mut file = File::create(directory.join(format!("data-{number:03}")))?;
        let mut of_file = left.min(FILE);
        left -= of_file;
        while of_file > 0 {
            let part = of_file.min(buffer.len() as u64);
            rng.fill_bytes(&mut buffer[..part as usize]);
            file.write_all(&buffer[..part as usize])?;
            of_file -= part;
        }
    }
    Ok(())
}

/// The SHA-256 over the names and contents of the files in `directory`, as hexadecimal text.
pub fn checksum(directory: &Path) -> io::Result<String> {
    let mut paths = fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    let mut sum = digest::Context::new(&digest::SHA256);
    let mut buffer = vec![0; 1 << 20];
    for path in paths {
        sum.update(path.file_name().unwrap_or_default().as_encoded_bytes());
        let mut file = File::open(&path)?;
        sum.update(&file.metadata()?.len().to_be_bytes());
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                length => sum.update(&buffer[..length]),
            }
        }
    }
    Ok(sum.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_checksum_and_a_flipped_bit_another() {
        let directory = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| directory.path().join(name));
        generate(&a, FILE + 5, 1).unwrap();
        generate(&b, FILE + 5, 1).unwrap();
        assert_eq!(fs::read_dir(&a).unwrap().count(), 2);
        assert_eq!(checksum(&a).unwrap(), checksum(&b).unwrap());
        let mut bytes = fs::read(b.join("data-001")).unwrap();
        bytes[4] ^= 1;
        fs::write(b.join("data-001"), bytes).unwrap();
        assert_ne!(checksum(&a).unwrap(), checksum(&b).unwrap());
    }
}
