//! An OSS error: status, code, message and, where Alibaba documents one, the EC number.

use crate::Options;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OssError {
    pub status: u16,
    pub code: String,
    pub message: String,
    /// Documented under "EC error codes"; empty where the documents give no number.
    pub ec: &'static str,
    /// Further elements of the XML, such as `ArgumentName`.
    pub details: Vec<(&'static str, String)>,
}

impl OssError {
    pub fn new(status: u16, code: &str, message: impl Into<String>) -> OssError {
        let (code, message) = (code.to_string(), message.into());
        OssError { status, code, message, ec: "", details: Vec::new() }
    }

    pub fn denied(ec: &'static str, message: impl Into<String>) -> OssError {
        OssError::new(403, "AccessDenied", message).ec(ec)
    }

    pub fn argument(ec: &'static str, message: impl Into<String>) -> OssError {
        OssError::new(400, "InvalidArgument", message).ec(ec)
    }

    pub fn ec(mut self, ec: &'static str) -> OssError {
        self.ec = ec;
        self
    }

    pub fn with(mut self, element: &'static str, value: impl ToString) -> OssError {
        self.details.push((element, value.to_string()));
        self
    }

    pub fn xml(&self, options: &Options, request_id: &str) -> String {
        let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error>\n");
        let mut element = |name: &str, value: &str| {
            xml.push_str(&format!("  <{name}>{}</{name}>\n", escape(value)));
        };
        element("Code", &self.code);
        element("Message", &self.message);
        element("RequestId", request_id);
        element("HostId", &options.host());
        for (name, value) in &self.details {
            element(name, value);
        }
        if !self.ec.is_empty() {
            element("EC", self.ec);
            let document = format!("https://api.aliyun.com/troubleshoot?q={}", self.ec);
            element("RecommendDoc", &document);
        }
        xml + "</Error>\n"
    }
}

pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            // XML 1.0 has no way to write these.
            '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' => out.push('\u{fffd}'),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xml_names_code_message_and_ec() {
        let error = OssError::denied("0006-00000226", "a < \"b\" & c\u{1}").with("Argument", 7);
        assert_eq!(
            error.xml(&Options::default(), "5C3D9175B6FC201293AD4890"),
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error>\n  <Code>AccessDenied</Code>\n  \
             <Message>a &lt; \"b\" &amp; c\u{fffd}</Message>\n  \
             <RequestId>5C3D9175B6FC201293AD4890</RequestId>\n  \
             <HostId>examplebucket.oss-cn-hangzhou.aliyuncs.com</HostId>\n  \
             <Argument>7</Argument>\n  <EC>0006-00000226</EC>\n  \
             <RecommendDoc>https://api.aliyun.com/troubleshoot?q=0006-00000226</RecommendDoc>\n\
             </Error>\n"
        );
    }
}
