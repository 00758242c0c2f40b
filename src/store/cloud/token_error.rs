//! The words of a service that gives no token.

use super::error::{one_line, root_element};
use serde::Deserialize;

/// Why a service refuses.
#[derive(Debug, Default)]
pub(super) struct TokenError {
    /// Its code. Empty if the answer has none.
    pub code: String,
    /// Its description. Empty if the answer has none.
    description: String,
}

/// The answer of a service that refuses: RFC 6749, section 5.2. The endpoint of Amazon ECS calls its fields `code` and
/// `message` ("Container credential provider").
#[derive(Default, Deserialize)]
#[serde(default)]
struct JsonError {
    #[serde(alias = "code")]
    error: String,
    #[serde(alias = "message")]
    error_description: String,
}

/// The answer of Amazon's security token service that refuses ("Common errors", AWS STS API Reference).
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct XmlError {
    error: XmlErrorDetail,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct XmlErrorDetail {
    code: String,
    message: String,
}

impl TokenError {
    /// Finds the words in an answer: the code and the description, or a text that is not a web page.
    pub fn parse(text: &str) -> Self {
        let (code, description) = match root_element(text) {
            Some("ErrorResponse") => {
                let XmlError { error } = quick_xml::de::from_str(text).unwrap_or_default();
                (error.code, error.message)
            }
            Some(_) => Default::default(),
            None if text.trim_start().starts_with('{') => {
                let answer: JsonError = serde_json::from_str(text).unwrap_or_default();
                (answer.error, answer.error_description)
            }
            None => (String::new(), text.to_owned()),
        };
        // Microsoft appends the ids and the time of the request.
        let description = description.split("\r\n").next().unwrap_or_default();
        let description = one_line(description.split(" Trace ID:").next().unwrap_or_default());
        let description = description.trim_end_matches('.').to_owned();
        Self { code: one_line(&code), description }
    }

    /// Returns the words. Empty if there are none.
    pub fn describe(&self) -> String {
        match (self.code.as_str(), self.description.as_str()) {
            ("", words) | (words, "") => words.to_owned(),
            (code, description) => format!("{code}: {description}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_reported_in_the_words_of_the_service() {
        for (text, words) in [
            (
                "{\"error\":\"invalid_request\",\"error_description\":\"Identity not found\"}",
                "invalid_request: Identity not found",
            ),
            (
                "{\"error\":\"invalid_client\",\"error_description\":\"AADSTS700213: No matching federated identity record \
                 found for presented assertion subject 'a'. Trace ID: 1 Correlation ID: 2 Timestamp: 3\"}",
                "invalid_client: AADSTS700213: No matching federated identity record found for presented assertion subject 'a'",
            ),
            (
                "{\"error\":\"invalid_scope\",\"error_description\":\"AADSTS70011: The scope isn't valid.\\r\\nTrace ID: 1\\r\\n\"}",
                "invalid_scope: AADSTS70011: The scope isn't valid",
            ),
            (
                "Unable to generate access token; IAM returned 403 Forbidden: denied.\n",
                "Unable to generate access token; IAM returned 403 Forbidden: denied",
            ),
            ("<!DOCTYPE html><title>Error 404 (Not Found)!!1</title>", ""),
            ("{\"note\": \"x\"}", ""),
            (
                "{\"code\":\"AccessDeniedException\",\"message\":\"Unauthorized Exception! EKS does not have permissions.\"}",
                "AccessDeniedException: Unauthorized Exception! EKS does not have permissions",
            ),
            (
                "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type><Code>\
                 InvalidIdentityToken</Code><Message>No OpenIDConnect provider found in your account.</Message></Error>\
                 <RequestId>1</RequestId></ErrorResponse>",
                "InvalidIdentityToken: No OpenIDConnect provider found in your account",
            ),
            ("<ErrorResponse/>", ""),
            ("{\"error\": \"unknown\"}", "unknown"),
            ("", ""),
        ] {
            assert_eq!(TokenError::parse(text).describe(), words);
        }
    }
}
