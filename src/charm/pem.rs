//! PEM texts from other applications, brought into one form. Formats only.

/// Returns the PEM blocks in `text`, without the text around them. easyrsa puts a description in front of a certificate, and
/// providers differ in white space. The text is empty if the last block has no end.
pub fn blocks(text: &str) -> String {
    let mut blocks = String::new();
    let mut is_inside = false;
    for line in text.lines().map(str::trim) {
        is_inside |= line.starts_with("-----BEGIN ");
        if is_inside {
            blocks.push_str(line);
            blocks.push('\n');
        }
        is_inside &= !line.starts_with("-----END ");
    }
    if is_inside { String::new() } else { blocks }
}

/// Returns each PEM block in `text` by itself.
pub fn split(text: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut block = String::new();
    for line in blocks(text).lines() {
        block.push_str(line);
        block.push('\n');
        if line.starts_with("-----END ") {
            all.push(std::mem::take(&mut block));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_whole_blocks_in_any_text() {
        let (one, two) =
            ("-----BEGIN A-----\nMIIB\n-----END A-----\n", "-----BEGIN B-----\n-----END B-----\n");
        let text = format!("Certificate:\n    Data\n{}\n\n{two}", one.replace('\n', " \r\n"));
        assert_eq!(blocks(&text), format!("{one}{two}"));
        assert_eq!(split(&text), [one, two]);
        assert_eq!(blocks("-----BEGIN A-----\nMIIB\n"), "");
        assert!(split("").is_empty() && split("nonsense").is_empty());
    }
}
