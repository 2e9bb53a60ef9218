#!/usr/bin/perl
# Reads the vectors of docs/formats.md, written from that page alone: nothing of dbsec, no cipher library.
#
#   perl read_crypto.pl values FILE     each vector's plaintext in hex, or null where it is refused
#   perl read_crypto.pl keys FILE       each row's subkeys, or null
#   perl read_crypto.pl indexes FILE    each text's blind index
#
# Shape of what is printed: JSON, {"valid": {name: result}, "invalid": {name: result}}.
# A reference to check others with: slow, and its timing depends on the keys.
use strict;
use warnings;
use Digest::SHA qw(hmac_sha256);
use Encode qw(encode_utf8);
use JSON::PP;
use Unicode::Normalize qw(NFD NFKC NFKD);
use Unicode::UCD qw(num);

# --- AES-256, one block (FIPS 197)

my (@SBOX, @DOUBLE);

sub double { my $x = $_[0] << 1; return $x & 0x100 ? $x ^ 0x11b : $x }

sub make_tables {
    my ($p, $q) = (1, 1);
    do {
        $p ^= double($p) & 0xff;    # times 3
        $q ^= $q << 1; $q ^= $q << 2; $q ^= $q << 4; $q &= 0xff;    # divided by 3
        $q ^= 0x09 if $q & 0x80;
        my $x = $q;
        my $turned = 0;
        $turned ^= (($x << $_) | ($x >> (8 - $_))) & 0xff for 0 .. 4;
        $SBOX[$p] = $turned ^ 0x63;
    } while ($p != 1);
    $SBOX[0] = 0x63;
    @DOUBLE = map { double($_) } 0 .. 255;
}
make_tables();

sub expand_key {
    my @words = unpack 'N8', $_[0];
    my $rcon = 1;
    for my $i (8 .. 59) {
        my $t = $words[$i - 1];
        if ($i % 8 == 0) {
            $t = (($t << 8) | ($t >> 24)) & 0xffffffff;
            $t = substitute($t) ^ ($rcon << 24);
            $rcon = double($rcon);
        }
        elsif ($i % 8 == 4) { $t = substitute($t) }
        push @words, $words[$i - 8] ^ $t;
    }
    return [map { pack 'N4', @words[4 * $_ .. 4 * $_ + 3] } 0 .. 14];
}

sub substitute { return unpack 'N', pack 'C4', map { $SBOX[$_] } unpack 'C4', pack 'N', $_[0] }

sub aes {
    my ($keys, $block) = @_;
    my @s = unpack 'C16', $block ^ $keys->[0];
    for my $round (1 .. 14) {
        @s = map { $SBOX[$_] } @s;
        @s = @s[0, 5, 10, 15, 4, 9, 14, 3, 8, 13, 2, 7, 12, 1, 6, 11];
        if ($round < 14) {
            for my $c (0, 4, 8, 12) {
                my @a = @s[$c .. $c + 3];
                my $all = $a[0] ^ $a[1] ^ $a[2] ^ $a[3];
                $s[$c + $_] = $a[$_] ^ $all ^ $DOUBLE[$a[$_] ^ $a[($_ + 1) % 4]] for 0 .. 3;
            }
        }
        @s = unpack 'C16', pack('C16', @s) ^ $keys->[$round];
    }
    return pack 'C16', @s;
}

# --- AES-GCM with a nonce of 12 bytes (NIST SP 800-38D)

sub times_h {    # the field of GCM: bit 0 is the highest
    my ($x, $h) = @_;
    my ($h0, $h1) = unpack 'Q>2', $h;
    my ($z0, $z1) = (0, 0);
    for my $bit (split //, unpack 'B128', $x) {
        if ($bit) { $z0 ^= $h0; $z1 ^= $h1 }
        my $low = $h1 & 1;
        $h1 = ($h1 >> 1) | (($h0 & 1) << 63);
        $h0 >>= 1;
        $h0 ^= 0xe1 << 56 if $low;
    }
    return pack 'Q>2', $z0, $z1;
}

sub padded { my $text = shift; return $text . "\0" x (-length($text) % 16) }

sub gcm_open {
    my ($key, $nonce, $body, $aad) = @_;
    return undef if length($body) < 16;
    my ($text, $tag) = (substr($body, 0, -16), substr($body, -16));
    my $keys = expand_key($key);
    my $h = aes($keys, "\0" x 16);
    my $y = "\0" x 16;
    my $all = padded($aad) . padded($text) . pack('Q>2', 8 * length $aad, 8 * length $text);
    $y = times_h($y ^ $_, $h) for unpack '(a16)*', $all;
    return undef if ($y ^ aes($keys, $nonce . "\0\0\0\1")) ne $tag;
    my ($plain, $counter) = ('', 2);
    $plain .= $_ ^ substr(aes($keys, $nonce . pack 'N', $counter++), 0, length $_) for unpack '(a16)*', $text;
    return $plain;
}

# --- AES-SIV (RFC 5297)

sub dbl {
    my ($high, $low) = unpack 'Q>2', $_[0];
    my $out = pack 'Q>2', ($high << 1) | ($low >> 63), $low << 1;
    return $high >> 63 ? $out ^ ("\0" x 15 . "\x87") : $out;
}

sub cmac {
    my ($keys, $text) = @_;
    my $k = dbl(aes($keys, "\0" x 16));
    my $whole = length $text && length($text) % 16 == 0;
    $text = padded("$text\x80") if !$whole;
    my @blocks = unpack '(a16)*', $text;
    $blocks[-1] ^= $whole ? $k : dbl($k);
    my $mac = "\0" x 16;
    $mac = aes($keys, $mac ^ $_) for @blocks;
    return $mac;
}

sub s2v {
    my ($keys, $aad, $plain) = @_;
    my $d = dbl(cmac($keys, "\0" x 16)) ^ cmac($keys, $aad);
    return cmac($keys, dbl($d) ^ padded("$plain\x80")) if length $plain < 16;
    my $end = substr($plain, -16) ^ $d;
    return cmac($keys, substr($plain, 0, -16) . $end);
}

sub siv_open {
    my ($key, $body, $aad) = @_;
    return undef if length $body < 16;
    my ($iv, $text) = (substr($body, 0, 16), substr($body, 16));
    my ($mac_keys, $ctr_keys) = map { expand_key($_) } unpack 'a32 a32', $key;
    my ($high, $low) = unpack 'Q>2', $iv & pack 'H32', 'ffffffffffffffff7fffffff7fffffff';
    my $plain = '';
    for my $part (unpack '(a16)*', $text) {
        $plain .= $part ^ substr(aes($ctr_keys, pack 'Q>2', $high, $low), 0, length $part);
        $low++;    # its bit 63 is cleared: it does not overflow
    }
    return s2v($mac_keys, $aad, $plain) eq $iv ? $plain : undef;
}

# --- sections 1 and 2: length prefixes, keys

sub lp { return join '', map { pack('N', length $_) . $_ } @_ }

sub hkdf {
    my ($dek, $salt, $info, $size) = @_;
    my $prk = hmac_sha256($dek, $salt);
    my ($out, $block) = ('', '');
    for my $n (1 .. ($size + 31) / 32) {
        $block = hmac_sha256($block . $info . chr $n, $prk);
        $out .= $block;
    }
    return substr $out, 0, $size;
}

sub unwrap {    # the KMS of the vectors
    my ($kek, $wrapped, %bound) = @_;
    return undef if length $wrapped < 28;
    my $aad = lp(map { ($_, $bound{$_}) } grep { length $bound{$_} } sort keys %bound);
    my $dek = gcm_open($kek, substr($wrapped, 0, 12), substr($wrapped, 12), $aad);
    return defined $dek && length $dek == 32 ? $dek : undef;
}

sub committed { my ($dek, $salt) = @_; return hkdf($dek, $salt, lp('dbsec/1/commit'), 32) }

sub dek_of {
    my ($kek, $key) = @_;
    return undef if $key->{state} eq 'destroyed';
    my %bound = map { $_ => encode_utf8 $key->{$_} } qw(tenant context purpose generation);
    my $dek = unwrap($kek, hex_of($key->{wrapped}), dbsec => 'keyring/1', %bound);
    return undef if !defined $dek || committed($dek, hex_of($key->{salt})) ne hex_of($key->{commitment});
    return $dek;
}

sub subkey {
    my ($dek, $salt, $label, $place, $size) = @_;
    return hkdf($dek, $salt, lp($label, map { encode_utf8 $place->{$_} } qw(tenant context column)), $size);
}

sub hex_of { return pack 'H*', $_[0] }

# --- section 3: values

my %ROW = (
    int8  => sub { return (1, pack 'q>', shift) },
    uuid  => sub { my $id = shift; $id =~ tr/-//d; return (2, hex_of($id)) },
    text  => sub { return (3, encode_utf8 shift) },
    bytea => sub { return (4, hex_of(shift)) },
);

sub row_of {
    my $place = shift;
    my $out = '';
    for my $part (@{ $place->{row} }) {
        my ($type) = keys %$part;
        my ($number, $value) = $ROW{$type}->($part->{$type});
        $out .= chr($number) . lp($value);
    }
    $out .= "\x7f" . lp(pack 'q>', $place->{version}) if defined $place->{version};
    return $out;
}

sub aad_of {
    my ($place, $header, $row) = @_;
    return lp('dbsec/aad/1', (map { encode_utf8 $place->{$_} } qw(tenant context column)), $header, $row);
}

my %READ = (0x11 => \&by_reference, 0x12 => \&deterministic, 0x13 => \&inline);

sub open_value {
    my ($file, $place) = @_;
    my $raw = hex_of($place->{value});
    return undef if length $raw < 2 || ord $raw != 0xd5;
    my $read = $READ{ ord substr $raw, 1 } or return undef;
    return $read->($file, $place, $raw);
}

sub found {
    my ($file, $place, $raw, $purpose) = @_;
    my $id = unpack 'N', substr $raw, 2, 4;
    my ($key) = grep { $_->{id} == $id } @{ $file->{keys} };
    return if !$key || $key->{purpose} ne $purpose;
    return if $key->{tenant} ne $place->{tenant} || $key->{context} ne $place->{context};
    my $dek = dek_of(hex_of($file->{kek}), $key);
    return defined $dek ? ($dek, hex_of($key->{salt})) : ();
}

sub by_reference {
    my ($file, $place, $raw) = @_;
    return undef if length $raw < 34;
    my ($dek, $salt) = found($file, $place, $raw, 'data') or return undef;
    my $aad = aad_of($place, substr($raw, 0, 6), row_of($place));
    return gcm_open(subkey($dek, $salt, 'dbsec/1/aead', $place, 32), substr($raw, 6, 12), substr($raw, 18), $aad);
}

sub deterministic {
    my ($file, $place, $raw) = @_;
    return undef if length $raw < 22;
    my ($dek, $salt) = found($file, $place, $raw, 'lookup') or return undef;
    my $aad = aad_of($place, substr($raw, 0, 6), '');
    return siv_open(subkey($dek, $salt, 'dbsec/1/siv', $place, 64), substr($raw, 6), $aad);
}

sub inline {
    my ($file, $place, $raw) = @_;
    return undef if length $raw < 4;
    my $end = 36 + unpack 'n', substr $raw, 2, 2;
    return undef if length $raw < $end + 28;
    my $header = substr $raw, 0, $end;
    my %bound = map { $_ => encode_utf8 $place->{$_} } qw(tenant context column);
    my $dek = unwrap(hex_of($file->{kek}), substr($header, 4, -32), dbsec => 'inline/1', %bound);
    my $salt = "\0" x 32;
    return undef if !defined $dek || committed($dek, $salt) ne substr $header, -32;
    my $aad = aad_of($place, $header, row_of($place));
    return gcm_open(subkey($dek, $salt, 'dbsec/1/aead', $place, 32), substr($raw, $end, 12), substr($raw, $end + 12), $aad);
}

# --- section 4: blind indexes

my $WHITE = qr/[\s\x1c-\x1f]/u;
my %FORM = (none => sub { return shift }, casefold => \&folded, digits => \&digits);

sub folded {
    my $text = unseen_out(CORE::fc(NFKD(CORE::fc(NFD(unseen_out(shift))))));
    $text = NFKC($text);
    $text =~ s/^$WHITE+//;
    $text =~ s/$WHITE+$//;
    return $text;
}

sub unseen_out { my $text = shift; $text =~ s/\p{Default_Ignorable_Code_Point}//g; return $text }

sub digits {
    my $text = shift;
    my $plain = NFKC($text);
    return folded($text) if $plain !~ /\p{Nd}/;
    my $plus = $plain =~ /^\P{Nd}*\+/ ? '+' : '';
    return $plus . join '', map { num($_) } $plain =~ /\p{Nd}/g;
}

sub index_of {
    my ($file, $place) = @_;
    my ($key) = grep {
        $_->{purpose} eq 'lookup' && $_->{tenant} eq $place->{tenant} && $_->{context} eq $place->{context}
            && $_->{generation} == $place->{generation}
    } @{ $file->{keys} };
    my $dek = dek_of(hex_of($file->{kek}), $key);
    my $index_key = subkey($dek, hex_of($key->{salt}), 'dbsec/1/bidx', $place, 32);
    my $mac = hmac_sha256(encode_utf8($FORM{ $place->{normal} }->($place->{text})), $index_key);
    my $bits = $place->{bits};
    return unpack 'H*', substr $mac, 0, $bits / 8 if $bits >= 64;
    return sprintf '%u', unpack('Q>', $mac) >> (64 - $bits);
}

# --- what is asked

my %ASKED = (
    values => sub { my $plain = open_value(@_); return defined $plain ? unpack 'H*', $plain : undef },
    keys   => sub {
        my ($file, $key) = @_;
        my $dek = dek_of(hex_of($file->{kek}), $key);
        return undef if !defined $dek;
        my ($salt, %sizes) = (hex_of($key->{salt}), aead => 32, siv => 64, bidx => 32);
        return { map { $_ => unpack 'H*', subkey($dek, $salt, "dbsec/1/$_", $key, $sizes{$_}) } keys %sizes };
    },
    indexes => \&index_of,
);

my ($what, $path) = @ARGV;
my $answer = $ASKED{ $what // '' } or die "values, keys or indexes\n";
open my $handle, '<:raw', $path or die "$path: $!\n";
my $file = decode_json(do { local $/; <$handle> });
my %out;
for my $set (qw(valid invalid)) {
    $out{$set} = {};
    $out{$set}{ $_->{name} } = $answer->($file, $_) for @{ $file->{$set} // [] };
}
print JSON::PP->new->utf8->canonical->pretty->encode(\%out);
