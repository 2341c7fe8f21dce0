//! The words for everything that can go wrong while a certificate is fetched, each with its stable label.

macro_rules! labelled {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $label:literal, $text:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
        pub enum $name { $($(#[$vdoc])* #[error($text)] $variant,)* }

        impl $name {
            /// Every one
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// The label used in logs, metrics and JSON
            pub const fn label(self) -> &'static str {
                match self { $($name::$variant => $label,)* }
            }
        }
    };
}

labelled! {
    /// Why a request brought no certificate
    Failure {
        /// No connection to the authority
        Unreachable = "unreachable", "the authority cannot be reached";
        /// No answer in time
        Timeout = "timeout", "the authority did not answer in time";
        /// The authority has too much to do
        Overloaded = "overloaded", "the authority is overloaded";
        /// The authority does not accept the certificate in force
        CertificateRefused = "certificate_refused",
            "the authority refused the certificate in force; the enrolled key is used next";
        /// The authority does not accept the new key
        KeyRefused = "key_refused", "the authority refused the new key; another is made";
        /// The authority refuses this node
        NodeRefused = "node_refused",
            "the authority refuses this node; an operator of the authority has to admit it again";
        /// The answer does not parse or does not verify
        Malformed = "malformed", "the authority's answer makes no sense";
        /// The certificate in the answer cannot be used
        Unusable = "unusable", "the certificate in the authority's answer cannot be used";
        /// The driver could not make the key or store the certificate
        Local = "local", "this host could not make the key or store the certificate";
    }
}

labelled! {
    /// Why a certificate that was issued is not used
    CertificateRefusal {
        /// It is not for the key that was asked for last
        UnknownKey = "unknown_key", "the certificate is for a key that is not waiting for one";
        /// It was here before
        Repeated = "repeated", "a certificate with this serial number was here before";
        /// Its validity has no length
        NoLifetime = "no_lifetime", "the certificate ends before it begins";
        /// It has ended
        Ended = "ended", "the certificate has ended; check the clocks of this host and the authority";
        /// It begins too late
        NotYetValid = "not_yet_valid",
            "the certificate begins only after the one in force ends, or none is in force; \
             check the clocks of this host and the authority";
        /// It ends no later than the one in force
        NoGain = "no_gain", "the certificate ends no later than the one in force";
    }
}
