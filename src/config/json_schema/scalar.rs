//! Values that are text with a form of their own: durations, rates, shares, addresses.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

/// A scalar that may be written in one of several ways, each with its pattern.
macro_rules! scalar {
    ($name:ident, $description:literal, $schema:tt) => {
        #[doc = $description]
        #[allow(dead_code, reason = "only the form counts")]
        pub(super) struct $name;

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                let mut schema = json_schema!($schema);
                schema.insert("description".to_owned(), $description.into());
                schema
            }
        }
    };
}

scalar!(Span, "A number with its unit: ns, us, ms, s or min.", {
    "type": "string", "pattern": "^[0-9]*\\.?[0-9]+ *(ns|us|µs|ms|s|min)$", "examples": ["50us", "1.5ms", "2s"]
});
scalar!(RateText, "Bits per second with their unit: kbit, mbit or gbit, in powers of 1000.", {
    "type": "string", "pattern": "^[0-9]*\\.?[0-9]+ *([kKmMgG]?[bB][iI][tT])(/s)?$", "examples": ["950mbit", "2.5gbit"]
});
scalar!(Loss, "A loss above 0 and up to 50 %: with a percent sign, or as a share below 1.", {
    "anyOf": [
        { "type": "string", "pattern": "^[0-9]*\\.?[0-9]+ *%?$" },
        { "type": "number", "exclusiveMinimum": 0, "maximum": 0.5 },
    ],
    "examples": ["0.1%"]
});
scalar!(Chance, "A chance from 1e-30 to 0.1.", {
    "anyOf": [
        { "type": "string", "pattern": "^[0-9]*\\.?[0-9]+([eE]-?[0-9]+)? *%?$" },
        { "type": "number", "minimum": 1e-30, "maximum": 0.1 },
    ],
    "examples": ["1e-9"]
});
scalar!(Share, "A share from 1 % to 1000 %.", {
    "anyOf": [
        { "type": "string", "pattern": "^[0-9]*\\.?[0-9]+ *%?$" },
        { "type": "number", "minimum": 0.01, "maximum": 10 },
    ],
    "examples": ["50%"]
});
scalar!(Dscp, "0 to 63, or a name: ef, be, cs0 to cs7, af11 to af43.", {
    "anyOf": [
        { "type": "integer", "minimum": 0, "maximum": 63 },
        { "type": "string", "pattern": "^([0-9]|[1-5][0-9]|6[0-3]|[eE][fF]|[bBdD][eEfF]|[cC][sS][0-7]|[aA][fF][1-4][1-3])$" },
    ]
});
scalar!(OuterDscp, "copy, or a DSCP: 0 to 63, or a name such as ef, cs1 or af41.", {
    "anyOf": [
        { "const": "copy" },
        { "type": "integer", "minimum": 0, "maximum": 63 },
        { "type": "string", "pattern": "^([0-9]|[1-5][0-9]|6[0-3]|[eE][fF]|[bBdD][eEfF]|[cC][sS][0-7]|[aA][fF][1-4][1-3])$" },
    ]
});
scalar!(Protocol, "tcp, udp, icmp, icmpv6, or a number from 0 to 255.", {
    "anyOf": [
        { "enum": ["tcp", "udp", "icmp", "icmpv6"] },
        { "type": "integer", "minimum": 0, "maximum": 255 },
        { "type": "string", "pattern": "^[0-9]{1,3}$" },
    ]
});
scalar!(Ports, "A port, or a range such as 6000-6063.", {
    "anyOf": [
        { "type": "integer", "minimum": 1, "maximum": 65535 },
        { "type": "string", "pattern": "^[0-9]{1,5}( *- *[0-9]{1,5})?$" },
    ]
});
scalar!(Size, "Bytes: a number, or one with KiB, MiB or GiB.", {
    "anyOf": [
        { "type": "integer", "minimum": 1 },
        { "type": "string", "pattern": "^[0-9]+ *(B|[kKmMgG]|[KMG]iB)?$" },
    ],
    "examples": ["1MiB"]
});
scalar!(Name, "1 to 63 letters, digits, dots, dashes and underscores.", {
    "type": ["string", "integer"], "pattern": "^[A-Za-z0-9._-]{1,63}$"
});
scalar!(Listen, "An address and a port, such as 0.0.0.0:7117 or [::]:7117.", {
    "type": "string", "pattern": "^([0-9.]+|\\[[0-9a-fA-F:.%]+\\]):[0-9]{1,5}$"
});
scalar!(Endpoint, "host:port; an IPv6 address needs brackets.", {
    "type": "string", "pattern": "^.+:[0-9]{1,5}$", "examples": ["203.0.113.2:7117", "mirror.example.org:7117"]
});
scalar!(Prefix, "A prefix such as 10.2.0.0/24 or fd00:2::/64, without host bits.", {
    "type": "string", "pattern": "^[0-9a-fA-F:.]+/[0-9]{1,3}$"
});
scalar!(PublicKey, "The 44 characters that `onwire pubkey` prints.", {
    "type": "string", "pattern": "^[A-Za-z0-9+/]{43}=$"
});
scalar!(File, "A path; a relative one begins at the directory of this file.", { "type": "string", "minLength": 1 });
scalar!(Word, "A word of a command line.", { "type": ["string", "number", "boolean"] });
scalar!(Policy, "auto, strict, or available=TIME.", {
    "anyOf": [
        { "enum": ["auto", "strict"] },
        { "type": "string", "pattern": "^available=[0-9]*\\.?[0-9]+ *(ns|us|µs|ms|s|min)$" },
    ],
    "examples": ["available=1s"]
});
