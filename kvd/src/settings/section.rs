//! Declares a section once: its type, its defaults and its reference documentation.

/// One setting as the reference prints it.
#[derive(Debug)]
pub(crate) struct Setting {
    pub name: &'static str,
    pub default: &'static str,
    pub doc: &'static [&'static str],
}

/// One section as the reference prints it.
#[derive(Debug)]
pub(crate) struct Section {
    pub name: &'static str,
    pub doc: &'static [&'static str],
    pub settings: &'static [Setting],
}

macro_rules! section {
    (
        $(#[doc = $section_doc:literal])*
        $type_name:ident in $section:literal {
            $( $(#[doc = $doc:literal])* $field:ident : $field_type:ty = $default:expr, $shown:literal; )*
        }
    ) => {
        $(#[doc = $section_doc])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $type_name {
            $( $(#[doc = $doc])* pub $field: $field_type, )*
        }

        impl Default for $type_name {
            fn default() -> $type_name {
                $type_name { $( $field: $default, )* }
            }
        }

        impl $type_name {
            pub(crate) const SECTION: $crate::settings::section::Section = $crate::settings::section::Section {
                name: $section,
                doc: &[$($section_doc),*],
                settings: &[$( $crate::settings::section::Setting {
                    name: stringify!($field),
                    default: $shown,
                    doc: &[$($doc),*],
                } ),*],
            };
        }
    };
}

pub(crate) use section;
