//! Text that should be PEM and is not, in words: the libraries show it as a list of byte numbers.

/// What is wrong with a text that no PEM block could be read from, and what to give instead.
pub fn why_no_pem(text: &str) -> &'static str {
    let begins = text.contains("-----BEGIN ");
    if begins && text.contains("\\n") {
        "it has \\n where line breaks belong; give the text of the file with its lines"
    } else if begins && text.trim().lines().count() == 1 {
        "it is all one line; give the text of the file with its lines, in quotation marks on a command line"
    } else if begins {
        "its PEM form is damaged; give the text of the file as it is"
    } else {
        "it has no \"-----BEGIN\"; give the text of a PEM file"
    }
}

#[cfg(test)]
mod tests {
    use super::why_no_pem;

    #[test]
    fn each_way_to_spoil_it_is_told() {
        let whole = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(why_no_pem(&whole.replace('\n', "\\n")).contains("\\n where"));
        assert!(why_no_pem(&whole.replace('\n', " ")).contains("one line"));
        assert!(why_no_pem(&whole[..35]).contains("damaged"));
        assert!(why_no_pem("ca.pem").contains("no \"-----BEGIN\""));
    }
}
