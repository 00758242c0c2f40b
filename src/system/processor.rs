//! The instructions that our cryptography needs from the processor.

use crate::error::Refusal;

/// Checks that the processor has the instructions that graviola is written for. All have them since about 2015, but not
/// every virtual one. `purpose` is what needs them, and `next` is what to do without them.
///
/// # Errors
/// A refusal that names the missing instructions.
pub fn check(purpose: &str, next: &str) -> Result<(), Refusal> {
    #[cfg(target_arch = "x86_64")]
    let features = [
        ("aes", is_x86_feature_detected!("aes")),
        ("ssse3", is_x86_feature_detected!("ssse3")),
        ("pclmulqdq", is_x86_feature_detected!("pclmulqdq")),
        ("avx", is_x86_feature_detected!("avx")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("bmi1", is_x86_feature_detected!("bmi1")),
        ("bmi2", is_x86_feature_detected!("bmi2")),
        ("adx", is_x86_feature_detected!("adx")),
    ];
    #[cfg(target_arch = "aarch64")]
    let features = [
        ("aes", std::arch::is_aarch64_feature_detected!("aes")),
        ("sha2", std::arch::is_aarch64_feature_detected!("sha2")),
        ("pmull", std::arch::is_aarch64_feature_detected!("pmull")),
    ];
    judge(&features, graviola::util::is_cpu_supported(), purpose, next)
}

/// Whether the processor has these instructions.
pub fn is_supported() -> bool {
    check("", "").is_ok()
}

/// `is_supported` is what graviola says, which panics if it needs more than these features.
fn judge(features: &[(&str, bool)], is_supported: bool, purpose: &str, next: &str) -> Result<(), Refusal> {
    let missing: Vec<&str> = features.iter().filter(|(_, there)| !there).map(|(name, _)| *name).collect();
    let missing = match missing.is_empty() {
        true if is_supported => return Ok(()),
        true => "an instruction".to_owned(),
        false => missing.join(", "),
    };
    Err(Refusal::new(
        format!("this machine's processor lacks {missing}, which {purpose} here"),
        format!("give the virtual machine its host's processor model (host-passthrough), or {next}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_missing_instructions() {
        assert!(judge(&[("avx2", true), ("adx", true)], true, "TLS needs", "").is_ok());
        let refusal = judge(&[("avx2", true)], false, "TLS needs", "").unwrap_err();
        assert_eq!(refusal.reason, "this machine's processor lacks an instruction, which TLS needs here");
        let features = [("avx2", false), ("aes", true), ("adx", false)];
        let refusal = judge(&features, false, "TLS needs", "use another");
        let refusal = refusal.unwrap_err();
        assert_eq!(refusal.reason, "this machine's processor lacks avx2, adx, which TLS needs here");
        assert!(refusal.next.ends_with("(host-passthrough), or use another"), "{}", refusal.next);
    }
}
