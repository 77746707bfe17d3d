#!/usr/bin/env bash
# How these files were made, by `openssl ts` as the authority; run in an empty folder that holds
# stamped.txt and request.tsq. The keys are thrown away.
set -euo pipefail
days=36500
cat >openssl.cnf <<'END'
[ tsa ]
serial = ./serial
crypto_device = builtin
default_policy = 1.3.6.1.4.1.99999.1
digests = sha256
accuracy = secs:1, millisecs:500
clock_precision_digits = 3
ordering = no
tsa_name = no
ess_cert_id_chain = no
[ authority ]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
[ stamps ]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = critical, timeStamping
[ stamps_and_more ]
extendedKeyUsage = critical, timeStamping, serverAuth
[ stamps_softly ]
extendedKeyUsage = timeStamping
END
echo 01 >serial
new_key() { openssl genpkey -quiet -out "$1.key" "${@:2}"; }
signed() { # NAME EXTENSIONS: a certificate by the root
  openssl req -new -key "$1.key" -subj "/O=Passerelle tests/CN=$1" -out "$1.csr"
  openssl x509 -req -in "$1.csr" -CA authority.pem -CAkey authority.key -days "$days" \
    -extfile openssl.cnf -extensions "$2" -out "$1.pem" 2>/dev/null
}
stamp() { # NAME OUT DIGEST ESS: an answer
  openssl ts -reply -config openssl.cnf -section tsa -queryfile request.tsq -signer "$1.pem" \
    -inkey "$1.key" -chain authority.pem "-$3" -out "$2.tsr" 2>/dev/null
}
for root in authority other; do
  new_key "$root" -algorithm EC -pkeyopt ec_paramgen_curve:P-256
  openssl req -x509 -new -key "$root.key" -subj "/CN=$root" -days "$days" -config openssl.cnf \
    -extensions authority -out "$root.pem"
done
new_key rsa -algorithm RSA -pkeyopt rsa_keygen_bits:2048
new_key ecdsa -algorithm EC -pkeyopt ec_paramgen_curve:P-384
signed rsa stamps
signed ecdsa stamps
for weak in stamps_and_more stamps_softly; do
  cp ecdsa.key "$weak.key"
  signed "$weak" "$weak"
done
printf 'ess_cert_id_alg = sha256\n' >ess && sed -i '/^\[ tsa \]/r ess' openssl.cnf
stamp rsa rsa sha256
stamp rsa rsa_sha512 sha512
stamp ecdsa ecdsa sha384
sed -i 's/^ess_cert_id_alg = sha256/ess_cert_id_alg = sha1/' openssl.cnf
stamp rsa sha1 sha256
rm -f ./*.key ./*.csr ./*.srl serial* ess openssl.cnf rsa.pem ecdsa.pem
