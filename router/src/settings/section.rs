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
    /// True for `[[name]]`, which may be given any number of times.
    pub many: bool,
    pub doc: &'static [&'static str],
    pub settings: &'static [Setting],
    /// Sections within, by the key each has here; their names begin with this one's.
    pub within: &'static [(&'static str, &'static Section)],
}

macro_rules! section {
    (
        $(#[derive($derive:ident)])?
        $(#[doc = $section_doc:literal])*
        $type_name:ident in $section:literal $($many:ident)? {
            $( $(#[doc = $doc:literal])* $field:ident : $field_type:ty = $default:expr, $shown:literal; )*
            $( + $(#[doc = $within_doc:literal])* $within:ident : $within_type:ty; )*
        }
    ) => {
        $(#[doc = $section_doc])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize $(, $derive)?)]
        #[serde(default, deny_unknown_fields)]
        pub struct $type_name {
            $( $(#[doc = $doc])* pub $field: $field_type, )*
            $( $(#[doc = $within_doc])* pub $within: $within_type, )*
        }

        impl Default for $type_name {
            fn default() -> $type_name {
                $type_name { $( $field: $default, )* $( $within: Default::default(), )* }
            }
        }

        impl $type_name {
            pub(crate) const SECTION: $crate::settings::section::Section = $crate::settings::section::Section {
                name: $section,
                many: $crate::settings::section::section!(@many $($many)?),
                doc: &[$($section_doc),*],
                settings: &[$( $crate::settings::section::Setting {
                    name: stringify!($field),
                    default: $shown,
                    doc: &[$($doc),*],
                } ),*],
                within: &[$( (stringify!($within), &<$within_type>::SECTION) ),*],
            };
        }
    };
    (@many many) => { true };
    (@many) => { false };
}

pub(crate) use section;
