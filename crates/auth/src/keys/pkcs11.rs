//! Keys in a hardware token, by PKCS#11: they are generated there, sign there, and never leave it.

mod point;

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error, RvError},
    mechanism::{
        Mechanism,
        eddsa::{EddsaParams, EddsaSignatureScheme},
    },
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::{Session, UserType},
    types::AuthPin,
};
use parking_lot::Mutex;
use signing::{PublicKey, SignError, Signature, Signer};

use super::{Passphrase, SecretPlace};

/// DER of the object identifier id-Ed25519 (RFC 8410), which names the curve to a token.
const ED25519_OID: [u8; 5] = [0x06, 0x03, 0x2b, 0x65, 0x70];
/// What `llm-node` calls its keys in a token.
const LABEL: &[u8] = b"llm-node";
/// Bytes of a new key's `CKA_ID`.
const ID_BYTES: usize = 16;

/// Which token.
#[derive(Debug, Clone)]
pub struct Pkcs11Config {
    /// The module of its vendor, a shared library.
    pub module: PathBuf,
    /// The token's label.
    pub token: String,
    /// The user's PIN.
    pub pin: Passphrase,
}

/// Which key of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// By `CKA_ID`.
    Id(Vec<u8>),
    /// By `CKA_LABEL`.
    Label(String),
}

impl Selector {
    /// By `CKA_ID` in hexadecimal; `None` when it is not.
    #[must_use]
    pub fn from_hex_id(id: &str) -> Option<Self> {
        hex::decode(id).ok().filter(|id| !id.is_empty()).map(Self::Id)
    }
}

/// Why a token cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// No `signature.pkcs11_*`.
    #[error("a key is in a hardware token, and signature.pkcs11_module, pkcs11_token and pkcs11_pin do not say which")]
    NotConfigured,
    /// The module or the token refused.
    #[error("the hardware token {token} failed to {what}: {source}")]
    Failed {
        /// Its label.
        token: String,
        /// At what.
        what: &'static str,
        /// What it says.
        source: Error,
    },
    /// No slot has it.
    #[error(
        "no token is named {0}: `pkcs11-tool --list-slots`, or `softhsm2-util --show-slots`, shows those that there are"
    )]
    NoToken(String),
    /// No such key, or several.
    #[error(
        "the hardware token {token} has {found} Ed25519 keys of that name; exactly one is needed, with its public half"
    )]
    NoKey {
        /// The token's label.
        token: String,
        /// How many.
        found: usize,
    },
    /// Its public half is none that is accepted.
    #[error("the hardware token {0} gives a public key that is none of Ed25519")]
    BadKey(String),
    /// No randomness.
    #[error("the system's random source failed")]
    Random,
}

/// One token, opened when it is first needed.
pub(crate) struct Token {
    config: Pkcs11Config,
    module: OnceLock<Pkcs11>,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Token {
    pub(crate) fn new(config: Pkcs11Config) -> Self {
        Self { config, module: OnceLock::new() }
    }

    /// Generates a key: it signs, and can be neither read nor copied.
    pub(crate) fn generate(&self) -> Result<(PublicKey, SecretPlace), TokenError> {
        use rand::TryRng as _;
        let mut id = [0_u8; ID_BYTES];
        rand::rngs::SysRng.try_fill_bytes(&mut id).map_err(|_| TokenError::Random)?;
        let session = self.session(&self.config.token, true)?;
        let public = [
            Attribute::Token(true),
            Attribute::Private(false),
            Attribute::Verify(true),
            Attribute::EcParams(ED25519_OID.to_vec()),
            Attribute::Id(id.to_vec()),
            Attribute::Label(LABEL.to_vec()),
        ];
        let private = [
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Sign(true),
            Attribute::Id(id.to_vec()),
            Attribute::Label(LABEL.to_vec()),
        ];
        let (public, _) = session
            .generate_key_pair(&Mechanism::EccEdwardsKeyPairGen, &public, &private)
            .map_err(|source| self.failed("generate a key", source))?;
        Ok((self.public_key(&session, public)?, self.place(&id)))
    }

    /// A key that is there already.
    pub(crate) fn find(&self, selector: &Selector) -> Result<(PublicKey, SecretPlace), TokenError> {
        let session = self.session(&self.config.token, false)?;
        let name = match selector {
            Selector::Id(id) => Attribute::Id(id.clone()),
            Selector::Label(label) => Attribute::Label(label.clone().into_bytes()),
        };
        let public = self.find_one(&session, ObjectClass::PUBLIC_KEY, name.clone())?;
        let private = self.find_one(&session, ObjectClass::PRIVATE_KEY, name)?;
        let id = |object| {
            let attributes = session.get_attributes(object, &[AttributeType::Id]);
            let attributes = attributes.map_err(|source| self.failed("show a key's id", source))?;
            let id =
                attributes.into_iter().find_map(|found| if let Attribute::Id(id) = found { Some(id) } else { None });
            Ok::<_, TokenError>(id.unwrap_or_default())
        };
        let (key_id, public_id) = (id(private)?, id(public)?);
        // Only by its id is the pair found again, so it must have one, and one for both.
        if key_id.is_empty() || key_id != public_id {
            return Err(TokenError::NoKey { token: self.config.token.clone(), found: 0 });
        }
        Ok((self.public_key(&session, public)?, self.place(&key_id)))
    }

    /// Whoever signs by the key `id` of `token`, which is `key`.
    pub(crate) fn signer(self: &Arc<Self>, token: &str, id: &str, key: PublicKey) -> Result<TokenSigner, TokenError> {
        let id = hex::decode(id).map_err(|_| TokenError::NoKey { token: token.to_owned(), found: 0 })?;
        let signer = TokenSigner { token: Arc::clone(self), label: token.to_owned(), id, key, open: Mutex::new(None) };
        *signer.open.lock() = Some(signer.connect()?);
        Ok(signer)
    }

    fn place(&self, id: &[u8]) -> SecretPlace {
        SecretPlace::Pkcs11 { token: self.config.token.clone(), id: hex::encode(id) }
    }

    fn session(&self, label: &str, write: bool) -> Result<Session, TokenError> {
        let module = self.module()?;
        let slots = module.get_slots_with_token().map_err(|source| self.failed("list its slots", source))?;
        let is_it = |slot: &_| module.get_token_info(*slot).is_ok_and(|info| info.label().trim_end() == label);
        let slot = slots.into_iter().find(is_it).ok_or_else(|| TokenError::NoToken(label.to_owned()))?;
        let session = if write { module.open_rw_session(slot) } else { module.open_ro_session(slot) };
        let session = session.map_err(|source| self.failed("open a session", source))?;
        let pin = AuthPin::from(self.config.pin.expose().to_owned());
        match session.login(UserType::User, Some(&pin)) {
            // The login belongs to the process and the token: another session of ours has it already.
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(session),
            Err(source) => Err(self.failed("log in (is signature.pkcs11_pin right?)", source)),
        }
    }

    fn module(&self) -> Result<&Pkcs11, TokenError> {
        if let Some(module) = self.module.get() {
            return Ok(module);
        }
        let module = Pkcs11::new(&self.config.module).map_err(|source| self.failed("load its module", source))?;
        match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(source) => return Err(self.failed("start", source)),
        }
        Ok(self.module.get_or_init(|| module))
    }

    fn find_one(&self, session: &Session, class: ObjectClass, name: Attribute) -> Result<ObjectHandle, TokenError> {
        let template = [Attribute::Class(class), Attribute::KeyType(KeyType::EC_EDWARDS), name];
        let found = session.find_objects(&template).map_err(|source| self.failed("find a key", source))?;
        match found.as_slice() {
            [one] => Ok(*one),
            several => Err(TokenError::NoKey { token: self.config.token.clone(), found: several.len() }),
        }
    }

    fn public_key(&self, session: &Session, object: ObjectHandle) -> Result<PublicKey, TokenError> {
        let attributes = session.get_attributes(object, &[AttributeType::EcPoint]);
        let attributes = attributes.map_err(|source| self.failed("show a public key", source))?;
        let point =
            attributes.iter().find_map(|found| if let Attribute::EcPoint(point) = found { Some(point) } else { None });
        point.and_then(|point| point::ed25519(point)).ok_or_else(|| TokenError::BadKey(self.config.token.clone()))
    }

    fn failed(&self, what: &'static str, source: Error) -> TokenError {
        TokenError::Failed { token: self.config.token.clone(), what, source }
    }
}

/// Signs in the token. One session, opened again when the token was away.
pub(crate) struct TokenSigner {
    token: Arc<Token>,
    label: String,
    id: Vec<u8>,
    key: PublicKey,
    open: Mutex<Option<(Session, ObjectHandle)>>,
}

impl TokenSigner {
    fn connect(&self) -> Result<(Session, ObjectHandle), TokenError> {
        let session = self.token.session(&self.label, false)?;
        let key = self.token.find_one(&session, ObjectClass::PRIVATE_KEY, Attribute::Id(self.id.clone()))?;
        Ok((session, key))
    }
}

impl Signer for TokenSigner {
    fn public_key(&self) -> PublicKey {
        self.key
    }

    fn sign(&self, message: &[u8]) -> Result<Signature, SignError> {
        let mechanism = Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Pure));
        let mut open = self.open.lock();
        let failed = |error: TokenError| SignError(error.to_string());
        let mut last = None;
        // Twice: a session that a restarted or replugged token forgot is opened again.
        for _ in 0..2 {
            let (session, key) = match open.take() {
                Some(opened) => opened,
                None => self.connect().map_err(failed)?,
            };
            match session.sign(&mechanism, key, message) {
                Ok(bytes) => {
                    *open = Some((session, key));
                    return Signature::from_bytes(&bytes).map_err(|error| SignError(error.to_string()));
                }
                Err(source) => last = Some(self.token.failed("sign", source)),
            }
        }
        Err(last.map_or_else(|| SignError("the hardware token does not answer".to_owned()), failed))
    }
}
